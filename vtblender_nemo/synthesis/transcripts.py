"""Transcripts that an LLM is given: which of them, and in what language they are."""

from __future__ import annotations

from dataclasses import dataclass

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.languages import language_code
from vtblender_nemo.synthesis.word_overlap import words
from vtblender_nemo.synthesis.work import InputRow, Refused

_LANGUAGE_FIELDS = ("source_lang", "lang", "language")


@dataclass(frozen=True)
class Transcript:
    """What is said in a row, and the code of its language."""

    text: str
    language: str


@dataclass(frozen=True)
class TranscriptOptions:
    """Which rows the LLM is asked about.

    Attributes:
        language: of rows that state none (`source_lang`, `lang`, `language`).
        min_transcript_words, max_transcript_words: rows with other transcripts are not asked about.
    """

    language: str = "en"
    min_transcript_words: int = 5
    max_transcript_words: int = 1000

    def __post_init__(self) -> None:
        try:
            language_code(self.language)
        except DataError as error:
            raise ConfigError(error.problem, value=self.language, expected=error.expected, knob="--language") from error
        shortest, longest = self.min_transcript_words, self.max_transcript_words
        if shortest < 0 or longest < 1 or shortest > longest:
            raise ConfigError(
                "no transcript is so long and so short",
                value=f"{shortest} to {longest} words",
                expected="min_transcript_words from 0 to max_transcript_words",
                knob="--min-transcript-words, --max-transcript-words",
            )

    def read(self, row: InputRow) -> Transcript | Refused:
        """A row's transcript, or why it is not asked about."""
        text = row.data.get("text")
        if not isinstance(text, str) or not text.strip():
            return Refused("no_transcript", str(text))
        length = len(words(text, ""))
        if not self.min_transcript_words <= length <= self.max_transcript_words:
            long = length > self.max_transcript_words
            return Refused("transcript_too_long" if long else "transcript_too_short", f"{length} words: {text}")
        stated = next((row.data[name] for name in _LANGUAGE_FIELDS if row.data.get(name)), self.language)
        try:
            return Transcript(text, language_code(stated))
        except DataError as error:
            return Refused("unknown_language", str(error))
