"""Pictures and pages of runs, drawn from metrics.jsonl and the predictions alone."""
