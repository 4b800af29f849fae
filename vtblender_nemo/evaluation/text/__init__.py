"""Text skills through lm-evaluation-harness: a checkpoint's LLM beside its own base, on the same items."""
