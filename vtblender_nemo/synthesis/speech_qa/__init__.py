"""Questions and answers about speech, written by an LLM."""
