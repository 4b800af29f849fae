"""The embedded default: makes a small but real world of speech, text, language model and encoder on the spot."""
