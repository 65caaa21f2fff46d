"""What several tasks share; no task itself."""
