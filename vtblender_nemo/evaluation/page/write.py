"""Writes the report of an evaluation: `report.html`, one file that needs no other, and `plots/*.png`.

Everything on the page comes from `scores.json` and `predictions/`; nothing is computed anew and no clock is read, so that
the same files give the same page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.evaluation.page import published as published_figures
from vtblender_nemo.evaluation.page.answers import Example, worst_examples
from vtblender_nemo.evaluation.page.audio import Clip, clips
from vtblender_nemo.evaluation.page.charts import ROLE_COLORS, RUN_COLORS, Chart
from vtblender_nemo.evaluation.page.generalisation import generalisation_charts
from vtblender_nemo.evaluation.page.names import measure_title, task_title
from vtblender_nemo.evaluation.page.pictures import write_pictures
from vtblender_nemo.evaluation.page.runs import Run, read_runs
from vtblender_nemo.evaluation.page.sections import (
    GAP_MARGIN,
    TEXT_MARGIN,
    TaskSection,
    blind_charts,
    gap_charts,
    kept_charts,
    score_charts,
    task_sections,
    twin_charts,
)
from vtblender_nemo.evaluation.page.verdicts import verdicts

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE, PLOTS_FOLDER = "report.html", "plots"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A question and the charts that answer it."""

    id: str
    title: str
    lede: str
    charts: tuple[Chart, ...]


def write_page(
    output_dir: Path,
    others: Sequence[Path] = (),
    *,
    published: Path | None = None,
    examples_per_task: int = 6,
    audio_limit_bytes: int = 4_000_000,
) -> Path:
    """Writes `report.html` and `plots/*.png` beside the scores of an evaluation.

    Args:
        output_dir: holds `scores.json` and, if examples are to be shown, `predictions/*.jsonl`.
        others: folders of other evaluations to compare with; only their `scores.json` is read.
        published: CSV of published figures; the package's own by default.
        examples_per_task: most wrong answers shown of a task.
        audio_limit_bytes: of all recordings in the page together.

    Returns:
        The path of the page.

    Raises:
        DataError: scores, predictions or published figures that are missing or of another form.
        ConfigError: a negative limit.
    """
    for name, value in (("examples_per_task", examples_per_task), ("audio_limit_bytes", audio_limit_bytes)):
        if value < 0:
            raise ConfigError("negative limit", value=value, expected="zero or more", knob=name)
    run, *rivals = read_runs([Path(output_dir), *(Path(other) for other in others)])
    figures = published_figures.read_figures(published or published_figures.default_file())
    sections, tasks = _sections(run, rivals), task_sections(run, rivals)
    known = published_figures.select(figures, run)
    examples = worst_examples(run, examples_per_task)
    script = (TEMPLATES / "filter.js").read_text(encoding="utf-8")
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            rivals=rivals,
            facts=list(_facts(run)),
            verdicts=verdicts(run),
            sections=sections,
            tasks=tasks,
            published=known,
            examples=list(_with_clips(examples, audio_limit_bytes)),
            example_tasks={task: task_title(task) for task in examples},
            signatures=list(_signatures(run)),
            margins={"text": TEXT_MARGIN, "gap": GAP_MARGIN},
            colors={**ROLE_COLORS, **{f"run{number}": color for number, color in enumerate(RUN_COLORS)}},
            remarks=list(_remarks(run, rivals)),
            script=script,
            script_hash=_hash(script),
        )
    )
    page = run.folder / PAGE_FILE
    write_text(html, page)
    write_pictures(_all_charts(sections, tasks, known), run.folder / PLOTS_FOLDER, run.label)
    return page


def _sections(run: Run, rivals: Sequence[Run]) -> list[Section]:
    sections = [
        Section(
            "scores", "Scores", "The main measure of every task, with its 95% interval.", (*score_charts(run, rivals),)
        ),
        Section(
            "speech",
            "What speech costs",
            "The same items twice: heard, and read as a transcript. What lies between is lost in hearing, not in thinking.",
            (*twin_charts(run), *gap_charts(run)),
        ),
        Section(
            "generalisation",
            "What was never asked in training",
            "The same items heard and read. The score with the transcript is what can be hoped for: share tells how much of it "
            "speech reaches, agreement how far both answers are the same, right or wrong. Unseen wordings ask for trained tasks; "
            "near, middle and far tell how many words they have in common with the nearest trained wording.",
            tuple(generalisation_charts(run, rivals)),
        ),
        Section(
            "blind",
            "What guessing reaches",
            "The same items with the speech or the text taken away: what is still right was guessed.",
            tuple(blind_charts(run)),
        ),
        Section(
            "kept",
            "What it kept",
            "The model and the LLM that it was built on, on the same text items. Shaded is what counts as no difference.",
            tuple(kept_charts(run)),
        ),
    ]
    return [section for section in sections if section.charts]


def _all_charts(
    sections: Sequence[Section], tasks: Sequence[TaskSection], known: published_figures.Published
) -> list[Chart]:
    drawn = [chart for section in sections for chart in section.charts]
    return [*drawn, *(chart for task in tasks for chart in task.charts), *known.same, *known.apart]


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """What the head tells of the model: only what the scores tell."""
    model, base = run.sheet.model, run.sheet.base or {}
    llm = str(model.get("llm") or base.get("name") or "")
    named = {"Base LLM": llm, "Speech encoder": model.get("asr"), "Tasks": run.sheet.config, "Date": model.get("date")}
    yield from ((title, str(value)) for title, value in named.items() if value)
    trained = model.get("trained_parameters")
    if isinstance(trained, Mapping):
        trained = sum(trained.values())
    if trained:
        yield "Trained parameters", f"{trained:,}"
    if model.get("sha256"):
        yield "SHA-256", str(model["sha256"])[:12]


def _signatures(run: Run) -> Iterator[tuple[str, str, str]]:
    """Task, measures and their signature, of everything that has one."""
    measures: dict[tuple[str, str], dict[str, None]] = {}
    for measure in run.sheet.measures:
        if measure.signature:
            measures.setdefault((measure.task, measure.signature), {})[measure_title(measure.measure)] = None
    yield from ((task_title(task), ", ".join(names), signature) for (task, signature), names in measures.items())


def _with_clips(examples: Mapping[str, Sequence[Example]], limit_bytes: int) -> Iterator[tuple[Example, list[Clip]]]:
    """The best-heard examples first: the first of every task get their sound before the second ones."""
    places = [(number, example) for found in examples.values() for number, example in enumerate(found)]
    in_turn = [example for _, example in sorted(places, key=lambda one: one[0])]
    made = iter(clips((span for example in in_turn for span in example.audios), limit_bytes))
    by_id = {(example.task, example.id): [next(made) for _ in example.audios] for example in in_turn}
    for found in examples.values():
        yield from ((example, by_id[example.task, example.id]) for example in found)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _remarks(run: Run, rivals: Sequence[Run]) -> Iterator[str]:
    """Where numbers of other runs were made otherwise, so that a reader does not take one for the other."""
    for rival in rivals:
        for task, name in run.main.items():
            own, other = run.main_of(task), rival.get(task, name)
            mine, theirs = (one.sheet.item_sets.get(task) for one in (run, rival))
            if other and mine and theirs and mine != theirs:
                yield f"{task_title(task)} of {rival.label} was asked of other items: the two do not compare."
            elif own and other and (own.signature, own.items) != (other.signature, other.items):
                yield f"{task_title(task)} of {rival.label} was scored otherwise ({other.signature}, {other.items} items)."


def _hash(script: str) -> str:
    """What the page's policy lets run: this script and no other, should a model's text ever get past the escaping."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
