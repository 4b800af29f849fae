"""Scores, test items, predictions over them, and the report."""
