"""An inspection from its beginning to its end: rows checked, micro-batches planned, everything counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.blend import Encoder
from vtblender_nemo.data.buckets import Planner
from vtblender_nemo.data.loader import make_planner
from vtblender_nemo.inspection.checks import AudioCheck, Checker
from vtblender_nemo.inspection.padding import (
    Bins,
    Padding,
    Planned,
    fitting_bins,
    fixed_size_padding,
    padding,
    plan,
    two_dimensional_padding,
)
from vtblender_nemo.inspection.samples import Sample, draw_samples
from vtblender_nemo.inspection.scan import SourceScan, scan
from vtblender_nemo.inspection.statistics import (
    Problem,
    Share,
    SourceCounts,
    count_source,
    joined,
    problems,
    shares,
)
from vtblender_nemo.inspection.subject import Subject, naming_files, open_parts

Progress = Callable[[str, int], Callable[[int], object]]
"""Told a stage's name and its number of rows; what it returns is told the rows done since the last call."""


@dataclass(frozen=True)
class Options:
    """How closely to look.

    Attributes:
        audio: see `Checker`.
        workers: processes that check rows.
        max_rows: rows of every source that are checked; all by default.
        draws: rows that are planned for shares, bins and padding.
        samples: conversations to be shown.
    """

    audio: AudioCheck = "header"
    workers: int = 1
    max_rows: int | None = None
    draws: int = 10_000
    samples: int = 0


@dataclass(frozen=True)
class Plans:
    """What came of planning micro-batches.

    Attributes:
        planned: the rows that were drawn.
        probabilities: what the sources' weights are shares of: `rows` or `batches`.
        by_source: shares of the sources.
        by_type: shares of the readers.
        by_corpus: shares of the corpora.
        bins: as they are and as they might be.
        own: padding under the blend's buckets.
        two_dimensional: padding under the bins of two dimensions, in micro-batches no larger than the blend's largest.
        fixed: padding in batches of the same number of rows, whatever their lengths.
    """

    planned: Planned
    probabilities: str
    by_source: dict[str, Share]
    by_type: dict[str, Share]
    by_corpus: dict[str, Share]
    bins: Bins
    own: Padding
    two_dimensional: Padding
    fixed: Padding


@dataclass(frozen=True)
class Inspection:
    """Everything that was found.

    Attributes:
        subject: what was looked at.
        options: how.
        tokens: what the token counts are by: a tokenizer's name, or that they are estimated.
        scans: the rows of every source.
        counts: of the same sources.
        problems: findings by their words.
        plans: micro-batches; None if the blend cannot be drawn from.
        no_plans: why it cannot.
        samples: conversations to be shown.
    """

    subject: Subject
    options: Options
    tokens: str
    scans: list[SourceScan]
    counts: list[SourceCounts]
    problems: list[Problem]
    plans: Plans | None
    no_plans: str
    samples: list[Sample]

    @property
    def errors(self) -> int:
        """Bad rows."""
        return sum(count.errors for count in self.counts)

    @property
    def warnings(self) -> int:
        return sum(count.warnings for count in self.counts)


def inspect(subject: Subject, encoder: Encoder, options: Options, tokens: str, progress: Progress) -> Inspection:
    """Looks at a blend.

    Args:
        subject: what to look at.
        encoder: lengths in positions.
        options: how closely.
        tokens: what the encoder's token counts are by, for the record.
        progress: told how far it has got.

    Raises:
        ConfigError: sources that cannot be opened.
    """
    with naming_files(subject.files):
        planner = make_planner(subject.train, encoder)
        parts = open_parts(subject, planner, encoder.sampling_rate)
    rows = sum(min(len(part.source), options.max_rows or len(part.source)) for part in parts)
    checker = Checker(encoder, options.audio, subject.train.seed)
    scans = scan(
        parts, checker, workers=options.workers, max_rows=options.max_rows, progress=progress("checking rows", rows)
    )
    counts = [count_source(one) for one in scans]
    plans, why = _plan(subject, planner, counts, options, progress)
    samples = draw_samples(planner, options.samples, encoder.sampling_rate)
    return Inspection(subject, options, tokens, scans, counts, problems(scans), plans, why, samples)


def _plan(
    subject: Subject, planner: Planner, counts: list[SourceCounts], options: Options, progress: Progress
) -> tuple[Plans | None, str]:
    try:
        planned = plan(planner, options.draws, progress("planning micro-batches", options.draws))
    except ConfigError as error:  # a source of bad rows alone: what the rows came to is still to be told
        return None, str(error)
    by_source = shares(planned, planner.weights())
    train = subject.train
    own, bins = padding(planned), fitting_bins(planner, planned, train.num_buckets)
    plans = Plans(
        planned=planned,
        probabilities="rows" if train.fusion == "rows" else "batches",
        by_source=by_source,
        by_type=joined(by_source, {count.name: count.type for count in counts}),
        by_corpus=joined(by_source, {count.name: count.corpus for count in counts}),
        bins=bins,
        own=own,
        two_dimensional=two_dimensional_padding(planned, bins.two_dimensional, own.largest),
        fixed=fixed_size_padding(planned, train.seed),
    )
    return plans, ""
