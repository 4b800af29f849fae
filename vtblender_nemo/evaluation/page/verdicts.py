"""What a reader wants to know first, each told by an interval and not by a value alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vtblender_nemo.evaluation.page.charts import Axis, Mark
from vtblender_nemo.evaluation.page.names import (
    BASE,
    BLIND_PREFIX,
    DIFFERENCE,
    NO_TEXT,
    QUESTIONS_KIND,
    TEXT_KIND,
    TEXT_TWIN,
    count,
    is_of_100,
    measure_title,
    task_title,
    unit_of,
    variant_title,
    written,
)
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.page.sections import GAP_MARGIN, TEXT_MARGIN, mark_of, mini_axis
from vtblender_nemo.evaluation.scores import Measure

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
    return [*_text(run), *_gap(run), *_listening(run), *_recognition(run)]


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
        "none": "Speech understood nearly like text",
        "unsure": "Speech and text not told apart",
        "small": "Speech somewhat behind text",
        "large": "Speech far behind text",
    },
    "against the transcript of the same items",
    "plot-minus_text_twin",
)
JUDGEMENTS: Mapping[str, Status] = {"none": "good", "unsure": "open", "small": "open", "large": "bad"}
"""Judgement -> its status; the later, the worse."""


def _text(run: Run) -> Iterator[Verdict]:
    yield from _difference(run, [task for task, kind in run.kinds.items() if kind == TEXT_KIND], TEXT_CLAIM)


def _gap(run: Run) -> Iterator[Verdict]:
    """Of questions, if there are any: their gap is a goal, and that of a translation has another scale."""
    questions = [task for task, kind in run.kinds.items() if kind == QUESTIONS_KIND]
    yield from _difference(run, questions or [task for task in run.main if run.kinds[task] != TEXT_KIND], GAP_CLAIM)


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


def _listening(run: Run) -> Iterator[Verdict]:
    """Of all tasks that were also answered blind, the one where blind answers come closest."""
    candidates = []
    for task in run.main:
        main = run.main_of(task)
        found = (run.main_of(task, variant) for variant in run.variants(task) if variant.startswith(BLIND_PREFIX))
        if main and main.better != "none":
            candidates += [_beside(run, main, blind) for blind in found if blind]
    if not candidates:
        return
    apart, _, main, nearest = min(candidates, key=lambda candidate: candidate[:2])
    unit = unit_of(main.measure)
    blind_mark, mark = mark_of(nearest), mark_of(main)
    detail = (
        f"{task_title(main.task)}, {measure_title(main.measure)}; "
        f"{blind_mark.written}{_spaced(unit)} {variant_title(nearest.variant)}"
    )
    highest = max(main.high, nearest.high, main.value, nearest.value, 100.0 if is_of_100(main.measure) else 0.0)
    yield Verdict(
        _used(run) if apart else f"The {_part(nearest.variant)} may be ignored",
        "good" if apart else "bad",
        mark,
        unit,
        detail,
        beside=(blind_mark,),
        axis=Axis(0.0, highest or 1.0, ()),
        place="blind",
    )


def _beside(run: Run, main: Measure, blind: Measure) -> tuple[bool, float, Measure, Measure]:
    """Whether a task is answered better than blind beyond chance, and by how much."""
    sign = -1 if main.better == "lower" else 1
    paired = run.main_of(main.task, DIFFERENCE + blind.variant)
    if paired:
        apart = _gain(paired)[0] > 0
    else:
        apart = main.low > blind.high if sign > 0 else main.high < blind.low
    return apart, sign * (main.value - blind.value), main, blind


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


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""
