"""From a trained run to what is handed in: predictions of any split, submission files, comparisons of two runs."""
