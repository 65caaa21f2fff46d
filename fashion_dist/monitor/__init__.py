"""What a person sees of runs and sweeps in a terminal."""
