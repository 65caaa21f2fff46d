"""How cost grows with the work: `make growth`."""
