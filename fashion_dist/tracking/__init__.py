"""What a run records of itself: metrics.jsonl first, W&B shows it."""
