"""What a reader wants to know first, each told by an interval and not by a value alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vtblender_nemo.evaluation.page.charts import Axis, Mark, Row, axis_of
from vtblender_nemo.evaluation.page.generalisation import worst_share
from vtblender_nemo.evaluation.page.names import (
    BASE,
    BLIND_PREFIX,
    NO_TEXT,
    QUESTIONS_KIND,
    TEXT_KIND,
    TEXT_TWIN,
    count,
    group_title,
    is_of_100,
    measure_title,
    task_title,
    unit_of,
    variant_title,
    written,
)
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.page.sections import GAP_MARGIN, TEXT_MARGIN, mark_of, mini_axis
from vtblender_nemo.evaluation.scores import AGREEMENT, DIFFERENCE, Measure

Status = Literal["good", "open", "bad", "plain"]


@dataclass(frozen=True)
class Verdict:
    """One statement.

    Attributes:
        headline: what is so.
        status: `good`, `bad`, or `open` where the interval allows both; `plain` where nothing is judged.
        mark: the number it rests on.
        unit: of the number.
        detail: against what, from how many items.
        beside: numbers that the first is compared with in the small drawing.
        axis: of the small drawing; None for none.
        band: differences that count as none.
        place: section of the page that tells more.
    """

    headline: str
    status: Status
    mark: Mark
    unit: str
    detail: str
    beside: tuple[Mark, ...] = ()
    axis: Axis | None = None
    band: tuple[float, float] | None = None
    place: str = ""

    @property
    def drawn(self) -> tuple[Mark, ...]:
        return (*self.beside, self.mark)


def verdicts(run: Run) -> list[Verdict]:
    """The statements that a run's measures allow, the widest claim first."""
    return [*_text(run), *_gap(run), *_generalisation(run), *_listening(run), *_recognition(run)]


@dataclass(frozen=True)
class _Claim:
    """A difference that is hoped to be none.

    Attributes:
        against: the variant that the model is held to.
        margin: points that count as no difference.
        words: headlines by what the interval allows, see `_judge`.
        detail: what the difference was taken from.
        place: section of the page that tells more.
    """

    against: str
    margin: float
    words: Mapping[str, str]
    detail: str
    place: str


TEXT_CLAIM = _Claim(
    BASE,
    TEXT_MARGIN,
    {
        "none": "Text skills kept",
        "unsure": "No loss of text skills measured",
        "small": "Text skills slightly lower",
        "large": "Text skills lost",
    },
    "against the base LLM",
    "plot-minus_base",
)
GAP_CLAIM = _Claim(
    TEXT_TWIN,
    GAP_MARGIN,
    {
        "none": "Spoken questions answered nearly like read ones",
        "unsure": "Spoken and read questions not told apart",
        "small": "Spoken questions somewhat behind read ones",
        "large": "Spoken questions far behind read ones",
    },
    "against the transcript of the same items",
    "plot-minus_text_twin",
)
JUDGEMENTS: Mapping[str, Status] = {"none": "good", "unsure": "open", "small": "open", "large": "bad"}
"""Judgement -> its status; the later, the worse."""


def _text(run: Run) -> Iterator[Verdict]:
    yield from _difference(run, [task for task, kind in run.kinds.items() if kind == TEXT_KIND], TEXT_CLAIM)


def _gap(run: Run) -> Iterator[Verdict]:
    """Of questions alone: the margin is the goal for them, and a translation's gap has another scale."""
    yield from _difference(run, [task for task, kind in run.kinds.items() if kind == QUESTIONS_KIND], GAP_CLAIM)


def _difference(run: Run, tasks: Sequence[str], claim: _Claim) -> Iterator[Verdict]:
    """The statement of the task that came off worst, which so holds for all."""
    found = [run.main_of(task, DIFFERENCE + claim.against) for task in tasks]
    measures = [measure for measure in found if measure]
    if not measures:
        return
    severity = list(JUDGEMENTS)
    worst = min(measures, key=lambda m: (-severity.index(_judge(m, claim.margin)), _gain(m)[1]))
    judgement = _judge(worst, claim.margin)
    among = "" if len(measures) == 1 else f", worst of {len(measures)}"
    detail = (
        f"{task_title(worst.task)}{among}: {measure_title(worst.measure)} {claim.detail}, {count(worst.items, 'item')}"
    )
    if JUDGEMENTS[judgement] == "open":
        detail += f"; a loss of {written(-_gain(worst)[0], 1)} points is not ruled out"
    yield Verdict(
        claim.words[judgement],
        JUDGEMENTS[judgement],
        mark_of(worst, "difference"),
        "points",
        detail,
        axis=mini_axis(claim.margin, worst),
        band=(-claim.margin, claim.margin),
        place=claim.place,
    )


def _judge(measure: Measure, margin: float) -> str:
    """`none`: the whole interval is above a loss of the margin; `unsure`: it reaches below, but also to no loss at all;
    `small`, `large`: there is a loss, of up to the margin or more.
    """
    low, value, high = _gain(measure)
    if low >= -margin:
        return "none"
    if high >= 0:
        return "unsure"
    return "small" if value >= -margin else "large"


def _gain(measure: Measure) -> tuple[float, float, float]:
    """Interval and value of a difference, turned so that more is better."""
    if measure.better == "lower":
        return -measure.high, -measure.value, -measure.low
    return measure.low, measure.value, measure.high


def _generalisation(run: Run) -> Iterator[Verdict]:
    """Of what training has not, where speech costs most."""
    if measure := worst_share(run):
        mark, title = mark_of(measure), measure_title(measure.measure)
        detail = f"{title} of speech in % of that with the transcript, {count(measure.items, 'item')}"
        if agreement := run.main_of(measure.task, AGREEMENT + TEXT_TWIN, measure.group):
            detail += f"; {title} of both answers {mark_of(agreement).written}"
        yield Verdict(
            group_title(measure.group),
            "plain",
            mark,
            "% of the transcript",
            detail,
            axis=Axis(0.0, max(100.0, measure.high), (100.0,)),
            place="generalisation",
        )


def _listening(run: Run) -> Iterator[Verdict]:
    """Of all that was also answered blind, the task and the blind variant that tell least of listening and reading."""
    found = [
        _blind(run, main, blind)
        for task in run.main
        if (main := run.main_of(task)) and main.better != "none"
        for variant in run.variants(task)
        if variant.startswith(BLIND_PREFIX) and (blind := run.main_of(task, variant))
    ]
    if found:
        yield min(found, key=lambda one: one[0])[1]


def _blind(run: Run, main: Measure, blind: Measure) -> tuple[tuple[int, float], Verdict]:
    """The statement about one blind variant, and its place among others: the least welcome first."""
    title = f"{task_title(main.task)}: {measure_title(main.measure)}"
    other = variant_title(blind.variant)
    paired = run.main_of(main.task, DIFFERENCE + blind.variant)
    gain = _gain(paired)[1] if paired else abs(main.value - blind.value) * (1 if _is_better(main, blind) else -1)
    if paired:
        apart = _gain(paired)[0] > 0
    else:
        apart = _is_better(main, blind) and (main.low > blind.high or main.high < blind.low)
    status: Status = "good" if apart else "open" if gain > 0 else "bad"
    headline = _used(run) if apart else f"The {_part(blind.variant)} may be ignored"
    if paired:
        detail = f"{title} as asked against {other}, {count(paired.items, 'item')}"
        drawn: dict[str, Any] = {
            "mark": mark_of(paired, "difference"),
            "unit": "points",
            "axis": mini_axis(0.0, paired),
        }
    else:
        mark, unit = mark_of(blind), unit_of(main.measure)
        detail = f"{title}; {mark.written}{f' {unit}' if unit else ''} {other}"
        axis = axis_of([Row("", "", (mark, mark_of(main)))], of_100=is_of_100(main.measure))
        drawn = {"mark": mark_of(main), "unit": unit, "axis": Axis(axis.low, axis.high, ()), "beside": (mark,)}
    rank = (["bad", "open", "good"].index(status), gain)
    return rank, Verdict(headline, status, detail=detail, place="blind", **drawn)


def _is_better(one: Measure, other: Measure) -> bool:
    return one.value < other.value if one.better == "lower" else one.value > other.value


def _part(variant: str) -> str:
    return "text" if variant == NO_TEXT else "speech"


def _used(run: Run) -> str:
    """Of which parts of the questions it was tested that they are used."""
    parts = {_part(v) for task in run.main for v in run.variants(task) if v.startswith(BLIND_PREFIX)}
    return "Speech and text are both used" if len(parts) == 2 else f"The {parts.pop()} is used"


def _recognition(run: Run) -> Iterator[Verdict]:
    for task, kind in run.kinds.items():
        main = run.main_of(task)
        if kind == "asr" and main:
            detail = f"{measure_title(main.measure)}, {count(main.items, 'item')}"
            yield Verdict(task_title(task), "plain", mark_of(main), unit_of(main.measure), detail, place="scores")
            return
