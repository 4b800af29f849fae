"""Every row of every source checked once, by several processes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from vtblender_nemo.data.blend import Limits
from vtblender_nemo.data.sources import Source
from vtblender_nemo.inspection.checks import Checker, Finding

CHUNK_ROWS = 1000
COLUMNS = ("audio_secs", "text_tokens", "target_tokens", "frames")
"""What is kept of every good row, as columns of `SourceScan.rows`."""


@dataclass(frozen=True)
class Part:
    """A source to be scanned.

    Attributes:
        source: its rows.
        limits: the filters that training holds its rows to.
        role: `training`, or the name of a validation set.
    """

    source: Source
    limits: Limits
    role: str = "training"


@dataclass
class SourceScan:
    """What the rows of one source came to.

    Attributes:
        part: the source.
        count: rows, good or bad.
        rows: float32 (good rows, 4), see `COLUMNS`: in seconds and positions.
        kept: bool (good rows,): not dropped by a limit of the training.
        findings: bad rows and warnings, in the rows' order.
        left_out: good rows that training drops, by limit.
        rates: audio files by their rate in Hz; empty if no header was read.
        channels: audio files by their number of channels.
        audios: audios of good rows.
    """

    part: Part
    count: int = 0
    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, len(COLUMNS)), np.float32))
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    findings: list[Finding] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    audios: int = 0

    @property
    def name(self) -> str:
        """The source's name; one of a validation set has the set's before it."""
        return self.part.source.name if self.part.role == "training" else f"{self.part.role}/{self.part.source.name}"

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def column(self, name: str) -> np.ndarray:
        """One of `COLUMNS` for all good rows, float64 (good rows,)."""
        return self.rows[:, COLUMNS.index(name)].astype(np.float64)


@dataclass
class _Chunk:
    """What some rows of one source came to."""

    part: int
    count: int
    rows: np.ndarray
    kept: np.ndarray
    findings: list[Finding]
    left_out: Counter[str]
    rates: Counter[int]
    channels: Counter[int]
    audios: int


Task = tuple[int, int, int]  # number of the part, first row, row after the last

# What a worker process scans; it comes by fork, so that the line indexes of large manifests are made once.
_in_worker: tuple[Checker, Sequence[Part]] | None = None


def scan(
    parts: Sequence[Part],
    checker: Checker,
    *,
    workers: int = 1,
    max_rows: int | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[SourceScan]:
    """Checks every row.

    Args:
        parts: the sources.
        checker: what is checked.
        workers: processes; 1 works in this one.
        max_rows: rows of every source, from its first on; all by default.
        progress: told the number of rows after every chunk.

    Returns:
        One result for every part, in their order; it does not depend on the number of processes.
    """
    scans = [SourceScan(part) for part in parts]
    chunks: list[list[_Chunk]] = [[] for _ in parts]
    for chunk in _chunks(parts, checker, workers, max_rows):
        chunks[chunk.part].append(chunk)
        progress(chunk.count)
    for result, own in zip(scans, chunks, strict=True):
        _join(result, own)
    return scans


def tasks(parts: Sequence[Part], max_rows: int | None) -> list[Task]:
    """The rows of every part, cut into chunks."""
    found = []
    for number, part in enumerate(parts):
        rows = len(part.source) if max_rows is None else min(len(part.source), max_rows)
        found += [(number, start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]
    return found


def _chunks(parts: Sequence[Part], checker: Checker, workers: int, max_rows: int | None) -> Iterator[_Chunk]:
    todo = tasks(parts, max_rows)
    if workers <= 1 or len(todo) <= 1:
        yield from (_scan_chunk(checker, parts, task) for task in todo)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_begin_worker, initargs=(checker, parts)
    ) as pool:
        yield from pool.map(_scan_in_worker, todo)


def _begin_worker(checker: Checker, parts: Sequence[Part]) -> None:
    global _in_worker
    _in_worker = (checker, parts)


def _scan_in_worker(task: Task) -> _Chunk:
    assert _in_worker is not None
    return _scan_chunk(*_in_worker, task)


def _scan_chunk(checker: Checker, parts: Sequence[Part], task: Task) -> _Chunk:
    number, start, end = task
    part = parts[number]
    rows: list[tuple[float, int, int, int]] = []
    kept: list[bool] = []
    chunk = _Chunk(number, end - start, np.zeros(0), np.zeros(0), [], Counter(), Counter(), Counter(), 0)
    for index in range(start, end):
        facts, findings, headers = checker.check(part.source, index, part.limits)
        chunk.findings += findings
        for header in headers:
            chunk.rates[header.rate] += 1
            chunk.channels[header.channels] += 1
        if facts is None:
            continue
        rows.append((facts.audio_secs, facts.text_tokens, facts.target_tokens, facts.frames))
        kept.append(facts.left_out_by is None)
        chunk.audios += facts.audios
        if facts.left_out_by is not None:
            chunk.left_out[facts.left_out_by] += 1
    chunk.rows = np.array(rows, np.float32).reshape(len(rows), len(COLUMNS))
    chunk.kept = np.array(kept, bool)
    return chunk


def _join(result: SourceScan, chunks: Sequence[_Chunk]) -> None:
    if not chunks:
        return
    result.count = sum(chunk.count for chunk in chunks)
    result.rows = np.concatenate([chunk.rows for chunk in chunks])
    result.kept = np.concatenate([chunk.kept for chunk in chunks])
    for chunk in chunks:
        result.findings += chunk.findings
        result.left_out += chunk.left_out
        result.rates += chunk.rates
        result.channels += chunk.channels
        result.audios += chunk.audios
