"""Carries a work out: shards, workers, and going on after a kill."""
