"""Wordings of the embedded default's training, for commands and servers that are told no others."""

TRANSCRIPTION_PROMPT = "Transcribe:"
"""The audio follows it."""

TRANSLATION_PROMPT = "Translate to English:"
"""The same for a translation."""
