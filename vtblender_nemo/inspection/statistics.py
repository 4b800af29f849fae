"""Counts and shares of a blend, from its rows and from the micro-batches that were planned of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtblender_nemo.inspection.checks import Finding
from vtblender_nemo.inspection.padding import Planned
from vtblender_nemo.inspection.scan import SourceScan

CORPUS_TAG = "corpus"
"""Of a source's `tags`: sources with the same value are counted together."""
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class SourceCounts:
    """One source as it lies on disk.

    Attributes:
        name: of the source.
        type: its reader.
        corpus: its tag `corpus`, else its name.
        rows: good and bad.
        errors: bad rows.
        warnings: findings that leave a row usable.
        left_out: good rows that training drops, by limit.
        hours: of audio, in good rows.
        audios: in good rows.
        text_tokens: in good rows, without those that stand for audio.
        target_tokens: of these, learned.
        frames: positions of the audio.
        audio_secs: 5th, 50th and 95th percentile of the seconds in a row; None without audio.
        rates: audio files by rate in Hz, if headers were read.
        channels: audio files by number of channels, if headers were read.
    """

    name: str
    type: str
    corpus: str
    rows: int
    errors: int
    warnings: int
    left_out: dict[str, int]
    hours: float
    audios: int
    text_tokens: int
    target_tokens: int
    frames: int
    audio_secs: tuple[float, ...] | None
    rates: dict[int, int]
    channels: dict[int, int]


@dataclass(frozen=True)
class Share:
    """What a source, or several, give to the micro-batches; all between 0 and 1.

    Attributes:
        probability: by the weights: of the rows, or of the micro-batches in a round robin.
        rows: of the rows that were drawn.
        frames: of their frames.
        targets: of their tokens to be learned.
    """

    probability: float
    rows: float
    frames: float
    targets: float


@dataclass(frozen=True)
class Problem:
    """Findings that say the same: their number, and the first of them."""

    level: str
    problem: str
    count: int
    examples: tuple[Finding, ...]


def count_source(scan: SourceScan) -> SourceCounts:
    """The counts of one source's rows."""
    config = scan.part.source.config
    secs = scan.column("audio_secs")
    spoken = secs[secs > 0]
    return SourceCounts(
        name=scan.name,
        type=config.type,
        corpus=str(config.tags.get(CORPUS_TAG, scan.name)),
        rows=scan.count,
        errors=len(scan.errors),
        warnings=len(scan.findings) - len(scan.errors),
        left_out=dict(sorted(scan.left_out.items())),
        hours=float(secs.sum() / 3600),
        audios=scan.audios,
        text_tokens=int(scan.column("text_tokens").sum()),
        target_tokens=int(scan.column("target_tokens").sum()),
        frames=int(scan.column("frames").sum()),
        audio_secs=tuple(float(q) for q in np.quantile(spoken, QUANTILES)) if len(spoken) else None,
        rates=dict(sorted(scan.rates.items())),
        channels=dict(sorted(scan.channels.items())),
    )


def shares(planned: Planned, weights: Mapping[str, float]) -> dict[str, Share]:
    """The share of every source.

    Args:
        planned: rows as they were drawn.
        weights: every source's probability.
    """
    sources = np.array(planned.sources)
    totals = [len(planned), planned.frames.sum(), planned.targets.sum()]
    found = {}
    for name, probability in weights.items():
        own = sources == name
        parts = [own.sum(), planned.frames[own].sum(), planned.targets[own].sum()]
        found[name] = Share(
            probability, *(float(part / total) if total else 0.0 for part, total in zip(parts, totals, strict=True))
        )
    return found


def joined(own: Mapping[str, Share], groups: Mapping[str, str]) -> dict[str, Share]:
    """Shares of groups of sources.

    Args:
        own: by source.
        groups: the group of every source.
    """
    found: dict[str, Share] = {}
    for name, share in own.items():
        group = groups[name]
        before = found.get(group, Share(0.0, 0.0, 0.0, 0.0))
        found[group] = Share(*(a + b for a, b in zip(vars(before).values(), vars(share).values(), strict=True)))
    return found


def problems(scans: Sequence[SourceScan], examples: int = 5) -> list[Problem]:
    """Findings of the same words together: errors first, then by their number."""
    by_words: dict[tuple[str, str], list[Finding]] = {}
    for scan in scans:
        for finding in scan.findings:
            by_words.setdefault((finding.level, finding.problem), []).append(finding)
    found = [Problem(level, words, len(all_), tuple(all_[:examples])) for (level, words), all_ in by_words.items()]
    return sorted(found, key=lambda problem: (problem.level != "error", -problem.count))


def histogram(values: np.ndarray, bins: int = 40) -> dict[str, Any]:
    """Counts between evenly spaced edges.

    Returns:
        `edges` (bins + 1) and `counts` (bins); both empty without values.
    """
    if not len(values):
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}


def joined_counts(counts: Sequence[dict[Any, int]]) -> dict[Any, int]:
    """Sums by key."""
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))
