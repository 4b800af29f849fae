"""Questions that are asked twice about one utterance, or too often of all: only a look at the whole output tells.

A duplicate is a question in the same words about the same utterance: the same span (`offset` and `duration`) of the same audio
file, which in tars is a member of one tar. Its answer does not count, for a second one says the same again or contradicts the
first. Spans of one file are utterances of their own, and so are recordings of one text: what is asked about them is kept, with
whatever answers.

The pass reads the whole shards of a job and writes what it keeps beside them, so that it can be done again after a kill.
What is first in the order of the shards is kept; no order of work changes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.data.rows import recording_name
from vtblender_nemo.synthesis.engine.synthesize import Summary
from vtblender_nemo.synthesis.engine.writer import MANIFEST, json_line, shard_name
from vtblender_nemo.synthesis.word_overlap import words

UNIQUE = "unique.jsonl"
"""What is kept of a shard, beside its manifest."""


@dataclass(frozen=True)
class DuplicateLimits:
    """How often a question may be asked; two are the same if their words are.

    Attributes:
        per_utterance: times that a question is asked about one utterance.
        overall: times that a question is asked in all; None for no limit. Questions that fit every recording ("What is this
            about?") teach little after the first hundreds.
    """

    per_utterance: int = 1
    overall: int | None = 100

    def __post_init__(self) -> None:
        for name in ("per_utterance", "overall"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"{name} keeps nothing", value=value, expected="at least 1", knob="--max-same-question"
                )


@dataclass
class _Seen:
    """What came before; hashes, as a corpus has millions of questions."""

    limits: DuplicateLimits
    of_utterances: Counter[int] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)

    def reason(self, row: Mapping[str, Any], tar: int | None) -> str | None:
        """Why a row is dropped; a row that is kept is counted."""
        question = " ".join(words(str(row["question"]), ""))
        here, asked = hash((_utterance(row), tar, question)), hash(question)
        if self.of_utterances[here] >= self.limits.per_utterance:
            return "duplicate"
        if self.limits.overall is not None and self.questions[asked] >= self.limits.overall:
            return "question_too_frequent"
        self.of_utterances[here] += 1
        self.questions[asked] += 1
        return None


def _utterance(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells an utterance from others: its file, and its span to the millisecond."""
    name, offset, duration = row["audio_filepath"], row.get("offset"), row.get("duration")
    if offset is not None:
        name = recording_name(name)  # without the numbers of a file's rows, which its spans tell apart
    return name, round(offset or 0.0, 3), None if duration is None else round(duration, 3)


def drop_duplicates(output_dir: Path, summary: Summary, limits: DuplicateLimits) -> tuple[Summary, list[bytes]]:
    """Writes `unique.jsonl` into every shard: a `LastPass` of a job.

    Args:
        output_dir: of a job whose shards are whole.
        summary: of that job, which made something.
        limits: what is kept.

    Returns:
        The summary of what is left, and lines of `rejected.jsonl` for the rest.
    """
    assert summary.entry is not None
    seen, refused = _Seen(limits), Counter(summary.refused_by_reason)
    tarred = "tarred_audio_filepaths" in summary.entry
    made = 0
    rejected: list[bytes] = []
    for number in range(summary.shards):
        kept: list[str] = []
        for line in _lines(output_dir / shard_name(number) / MANIFEST):
            row = json.loads(line)
            reason = seen.reason(row, number if tarred else None)  # every tar names its members for itself
            if reason is None:
                kept.append(line)
            else:
                refused[reason] += 1
                rejected.append(_rejection(row, reason))
        write_text("".join(kept), output_dir / shard_name(number) / UNIQUE)
        made += len(kept)
    entry = {**summary.entry, "manifest_filepath": summary.entry["manifest_filepath"].replace(MANIFEST, UNIQUE)}
    by_number = dict(sorted(refused.items(), key=lambda item: (-item[1], item[0])))
    return replace(summary, made=made, refused_by_reason=by_number, entry=entry), rejected


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:  # not `splitlines`: texts may hold the ends of lines that Unicode knows
        yield from file


def _rejection(row: Mapping[str, Any], reason: str) -> bytes:
    source, place = (row["provenance"][name] for name in ("source", "place"))
    detail = f"{row['question']} {row['answer']}"
    return json_line({"id": source, "place": place, "reason": reason, "detail": detail})
