"""Which part of a user's text becomes speech: sentences, and random runs of them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError

TURNS = ("first", "any", "every")


@dataclass
class SpanConfig:
    """How much of a chat becomes speech; the defaults are the paper's (arXiv 2410.17485)."""

    variants: int = 2
    """Rows drawn from one chat; of equal draws one is kept, so that a chat of one sentence gives one row."""
    max_spans: int = 1
    """Most speech segments of a turn; their number is drawn between 1 and this."""
    whole_turn: float = 0.0
    """Share of turns that become speech from end to end."""
    turns: str = "any"
    """Which user turns of a chat get speech: `first`, `any` (one, drawn at random) or `every`."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: values out of range.
        """
        for name in ("variants", "max_spans"):
            if getattr(self, name) < 1:
                raise ConfigError("too few", value=getattr(self, name), expected="at least 1", knob=f"{place}.{name}")
        if not 0 <= self.whole_turn <= 1:
            raise ConfigError("not a share", value=self.whole_turn, expected="0 to 1", knob=f"{place}.whole_turn")
        if self.turns not in TURNS:
            raise ConfigError(
                "unknown choice of turns",
                value=self.turns,
                expected=f"one of {', '.join(TURNS)}",
                knob=f"{place}.turns",
            )


@dataclass(frozen=True, order=True)
class Span:
    """A run of sentences, `begin` to before `end`, counted from 0."""

    begin: int
    end: int


Allowed = Callable[[Span], bool]


def span_probability(sentences: int, span: Span) -> float:
    """How likely the paper's draw gives this run of so many sentences: begin uniform, end uniform after it."""
    return 1.0 / (sentences * (sentences - span.begin))


def draw_span(sentences: int, rng: random.Random, *, first: int = 0, allowed: Allowed | None = None) -> Span | None:
    """Draws a run of consecutive sentences: begin uniform, end uniform after it.

    Args:
        sentences: how many there are, at least one.
        rng: draws.
        first: the sentence that the run may begin with at the earliest.
        allowed: runs that may be drawn, in the proportions that they have among all; null: all of them.

    Returns:
        The run, or None where none is allowed.
    """
    if allowed is None:
        begin = rng.randrange(first, sentences)
        return Span(begin, rng.randint(begin + 1, sentences))
    spans = [
        span
        for begin in range(first, sentences)
        for end in range(begin + 1, sentences + 1)
        if allowed(span := Span(begin, end))
    ]
    if not spans:
        return None
    return rng.choices(spans, [span_probability(sentences, span) for span in spans])[0]


def draw_spans(
    sentences: int, config: SpanConfig, rng: random.Random, allowed: Allowed | None = None
) -> tuple[Span, ...]:
    """Draws the speech segments of one turn, in order and with at least one sentence of text between them.

    The first follows the paper's draw over all sentences, every further one the same draw over those that are left
    behind it.

    Returns:
        The runs; none where none is allowed.
    """
    whole = Span(0, sentences)
    if rng.random() < config.whole_turn and (allowed is None or allowed(whole)):
        return (whole,)
    spans: list[Span] = []
    for _ in range(rng.randint(1, config.max_spans)):
        first = spans[-1].end + 1 if spans else 0
        span = draw_span(sentences, rng, first=first, allowed=allowed) if first < sentences else None
        if span is None:
            break
        spans.append(span)
    return tuple(spans)


def draw_turns(turns: Sequence[int], config: SpanConfig, rng: random.Random) -> list[int]:
    """Draws which user turns get speech, of those (by their places in the chat) that can."""
    if not turns or config.turns == "every":
        return list(turns)
    return [turns[0] if config.turns == "first" else rng.choice(turns)]


@functools.cache
def _segmenter() -> Any:
    try:
        import sentencex
    except ImportError as error:
        raise MissingDependencyError(
            "finding sentences needs the package sentencex", expected="pip install 'vtblender_nemo[synthesis]'"
        ) from error
    return sentencex


def split_sentences(text: str, language: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand.

    Args:
        text: any text; blank stretches belong to no sentence.
        language: two-letter code, which decides abbreviations and full stops.

    Returns:
        First and one past the last character of every sentence, without space around it.

    Raises:
        MissingDependencyError: the segmenter is not installed.
    """
    found, position = [], 0
    for sentence in _segmenter().segment(language, text):
        stripped = sentence.strip()
        if stripped:
            start = text.index(stripped, position)
            position = start + len(stripped)
            found.append((start, position))
    return found
