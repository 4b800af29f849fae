"""Rows with speech in them, as they are planned before a word is spoken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtblender_nemo.tiny.speech import Spoken


@dataclass(frozen=True)
class Answered:
    """A user turn, in parts that are typed (a text) or spoken, and the answer to it."""

    parts: tuple[str | Spoken, ...]
    answer: str


@dataclass(frozen=True)
class Item:
    """A training row or a test item.

    Attributes:
        id: unique in its file.
        task: name of the task.
        parts: the user's last turn; texts are typed.
        answer: what is right to answer.
        skill: what is asked for.
        earlier: turns before the last.
        custom: what a test item tells of itself beside its skill, transcripts and voices.
    """

    id: str
    task: str
    parts: tuple[str | Spoken, ...]
    answer: str
    skill: str = ""
    earlier: tuple[Answered, ...] = ()
    custom: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spoken(self) -> list[Spoken]:
        """All speech, in its order."""
        turns = (*(turn.parts for turn in self.earlier), self.parts)
        return [part for parts in turns for part in parts if isinstance(part, Spoken)]


def plain(text: str) -> str:
    """The words of a text in lower case, each with a space before and behind it, so that words can be looked for."""
    words = " ".join(re.findall(r"[^\W_]+", text.lower()))
    return f" {words} "
