"""The report of a sweep: means over seeds, paired differences from the reference, and a verdict on every claim."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.experiments.claims import Judged, judge, read_claims
from vtblender_nemo.experiments.estimates import Estimate, Runs, Unmeasured, estimate
from vtblender_nemo.experiments.launch import FAILURE_FILE, RUNS, SETTINGS_FILE
from vtblender_nemo.experiments.measures import RunScores, interval, read_run
from vtblender_nemo.experiments.settings import SweepConfig

FORMAT = 1
REPORT_FILE = "report.json"
_OF_BASES = ("tiny.", "model.pretrained_")
PAGE_FILE = "report.md"

METHOD = (
    "An interval (95%) is of the mean over seeds. It adds the variance over seeds, divided by their number, to the variance "
    "that resampled test items give that mean, and is spread by Student's t (Welch and Satterthwaite's degrees of freedom). "
    "With one seed it knows the items alone. Differences are taken seed by seed and item by item. A claim holds where the "
    "whole interval of its margin is at or above 0, does not hold where it is below, and is undecided otherwise, or with one "
    "seed. `noise` is what another seed alone changes between two runs in 95% of cases. All runs share one base LLM and one "
    "encoder: what another base would give is not in the interval."
)


@dataclass(frozen=True)
class SweepReport:
    """What was found.

    Attributes:
        values: the report as JSON.
        unfinished: runs that failed, or were begun and are not done: folder -> why.
        summary: a few lines for the screen.
    """

    values: Mapping[str, Any]
    unfinished: Mapping[str, str]
    summary: str


def make_report(sweep: SweepConfig) -> SweepReport:
    """Writes `report.json`, `report.md` and plots of all runs in the sweep's folder.

    Raises:
        ConfigError: a claim that cannot be read, or runs of one variant with different settings.
    """
    directory = Path(sweep.directory)
    folders = sorted(path for path in (directory / RUNS).glob("*") if path.is_dir())
    unfinished = {path.name: why for path in folders if (why := _unfinished(path))}
    done = {path: run for path in folders if path.name not in unfinished and (run := read_run(path))}
    runs: Runs = {(run.variant, run.seed): run for run in done.values()}
    judged = [verdict for claim in read_claims(sweep.claims) for verdict in judge(claim, runs)]
    variants = _in_order(sweep, done.values())
    measures = sweep.measures or sorted({name for run in done.values() for name in run.measures})
    values = {
        "format": FORMAT,
        "name": sweep.name,
        "question": sweep.question,
        "reference": sweep.reference,
        "claims": [_judged_values(one) for one in judged],
        "variants": {v: _variant_values(v, runs, measures, sweep.reference) for v in variants},
        "settings": _different_settings({path: run.variant for path, run in done.items()}),
        "different_bases": _different_bases(done),
        "unfinished": unfinished,
        "method": METHOD,
    }
    plots = _plots(values, sweep, measures, directory) if variants else []
    write_json(values, directory / REPORT_FILE)
    write_text(_page(values, sweep, measures, plots), directory / PAGE_FILE)
    return SweepReport(values, unfinished, _summary(values, directory))


def _plots(values: Mapping[str, Any], sweep: SweepConfig, measures: Sequence[str], directory: Path) -> list[Path]:
    from vtblender_nemo.experiments.sweep_plots import write_plots

    return write_plots(values, measures, directory, x_label=sweep.x_label, x_log=sweep.x_log)


def _unfinished(folder: Path) -> str | None:
    path = folder / FAILURE_FILE
    if path.exists():
        failure = json.loads(path.read_text(encoding="utf-8"))
        return f"{failure['problem']}" + (f"\nlog: {failure['log']}" if failure["log"] else "")
    return None if read_run(folder) else "begun and not done; the same command goes on with it"


def _in_order(sweep: SweepConfig, runs: Any) -> list[str]:
    found: dict[str, RunScores] = {run.variant: run for run in runs}
    places = {name: number for number, name in enumerate(sweep.order)}

    def place(name: str) -> tuple[int, float, str]:
        x = found[name].x
        return places.get(name, len(places)), float("inf") if x is None else x, name

    return sorted(found, key=place)


def _variant_values(variant: str, runs: Runs, measures: Sequence[str], reference: str | None) -> dict[str, Any]:
    own = [run for (name, _), run in sorted(runs.items()) if name == variant]
    scores, differences = {}, {}
    for measure in measures:
        if (found := _estimate(runs, {(variant, measure): 1.0})) is None:
            continue
        of_items = {run.seed: [round(bound, 4) for bound in interval(run.measures[measure])] for run in own}
        scores[measure] = _estimate_values(found) | {
            "better": own[0].measures[measure].better,
            "items": own[0].measures[measure].items,
            "interval_by_seed": of_items,
        }
        if reference not in (None, variant):
            terms = {(variant, measure): 1.0, (str(reference), measure): -1.0}
            if (difference := _estimate(runs, terms)) is not None:
                differences[measure] = _estimate_values(difference)
    return {
        "x": own[0].x,
        "line": own[0].line,
        "seeds": [run.seed for run in own],
        "measures": scores,
        "minus_reference": differences,
        "seconds": {run.seed: round(sum(run.seconds.values())) for run in own},
    }


def _estimate(runs: Runs, terms: Mapping[tuple[str, str], float]) -> Estimate | None:
    try:
        return estimate(runs, terms)
    except Unmeasured:
        return None


def _estimate_values(found: Estimate) -> dict[str, Any]:
    return {
        "value": round(found.value, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "by_seed": {seed: round(value, 4) for seed, value in found.by_seed.items()},
    }


def _judged_values(one: Judged) -> dict[str, Any]:
    values: dict[str, Any] = {"claim": one.claim.text, "says": one.claim.says, "verdict": one.verdict}
    if one.margin is not None:
        values["margin"] = _estimate_values(one.margin)
    if one.noise is not None:
        values["noise"] = round(one.noise, 4)
    return values | ({"reason": one.reason} if one.reason else {})


def _different_settings(variants: Mapping[Path, str]) -> dict[str, dict[str, Any]]:
    """Key -> variant -> value, of the keys in which variants differ.

    Raises:
        ConfigError: two seeds of one variant differ.
    """
    by_variant: dict[str, dict[str, Any]] = {}
    for path, variant in variants.items():
        settings = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
        first = by_variant.setdefault(variant, settings)
        for key in first.keys() | settings.keys():
            if first.get(key) != settings.get(key):
                raise ConfigError(
                    f"seeds of {variant} were run with a different {key}",
                    path=path / SETTINGS_FILE,
                    value=settings.get(key),
                    expected=repr(first.get(key)),
                    knob="the run's folder: delete it, and start the sweep again",
                )
    keys = sorted({key for settings in by_variant.values() for key in settings} - {"variant.name", "variant.x"})
    found = {key: {name: settings.get(key) for name, settings in by_variant.items()} for key in keys}
    return {key: values for key, values in found.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _different_bases(done: Mapping[Path, RunScores]) -> list[list[str]]:
    """Runs that were to begin with one LLM and one encoder, by those that they did begin with; nothing where all agree."""
    by_world: dict[str, dict[str, list[str]]] = {}
    for path, run in done.items():
        settings = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
        world = {key: value for key, value in settings.items() if key.startswith(_OF_BASES)}
        bases = by_world.setdefault(json.dumps(world, sort_keys=True), {})
        bases.setdefault(json.dumps(run.about.get("bases"), sort_keys=True), []).append(path.name)
    return [names for bases in by_world.values() if len(bases) > 1 for names in bases.values()]


def _summary(values: Mapping[str, Any], directory: Path) -> str:
    lines = [f"{one['verdict']}: {one['says'] or one['claim']}" for one in values["claims"]]
    for name, why in values["unfinished"].items():
        lines.append(f"not done: {name}: {why}")
    return "\n".join(["", *lines, f"report  {directory / PAGE_FILE}"])


def _page(values: Mapping[str, Any], sweep: SweepConfig, measures: Sequence[str], plots: Sequence[Path]) -> str:
    parts = [f"# {sweep.name}", sweep.question, *_claims_part(values), *_unfinished_part(values)]
    parts += [f"![{path.stem}]({path.name})" for path in plots]
    shown = [name for name in measures if any(name in one["measures"] for one in values["variants"].values())]
    if shown:
        parts += ["## Scores", "Mean over seeds, with its 95% interval.", _score_table(values, shown, "measures")]
    if any(one["minus_reference"] for one in values["variants"].values()):
        parts += [
            f"## Less {sweep.reference}",
            "Paired by seed and item.",
            _score_table(values, shown, "minus_reference"),
        ]
    if values["different_bases"]:
        groups = "\n".join(f"- {', '.join(names)}" for names in values["different_bases"])
        parts += [
            "## Different bases",
            "These runs were to share a base LLM and an encoder, and did not, as on different machines; what these differ in is "
            f"part of the differences above.\n\n{groups}",
        ]
    if values["settings"]:
        parts += ["## What the variants do differently", _settings_table(values)]
    return "\n\n".join([part for part in [*parts, "## How it was computed", METHOD] if part]) + "\n"


def _claims_part(values: Mapping[str, Any]) -> Iterator[str]:
    if not values["claims"]:
        return
    yield "## Claims"
    rows = []
    for one in values["claims"]:
        margin = _cell(one.get("margin"), signed=True)
        notes = [one.get("reason", "")] + ([f"noise is {one['noise']:.2f}"] if "noise" in one else [])
        rows.append(
            [one["says"], f"`{one['claim']}`", f"**{one['verdict']}**", margin, "; ".join(n for n in notes if n)]
        )
    yield _table(["", "claim", "verdict", "margin", ""], rows)


def _unfinished_part(values: Mapping[str, Any]) -> Iterator[str]:
    if values["unfinished"]:
        yield "## Not done"
        yield "\n".join(f"- {name}: {_in_a_line(why)}" for name, why in values["unfinished"].items())


def _in_a_line(why: str) -> str:
    """The first line, and the last before the log's path: what ended, and its own last words."""
    lines = [line for line in why.splitlines() if not line.startswith("log: ")]
    return lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1]}"


def _score_table(values: Mapping[str, Any], measures: Sequence[str], kind: str) -> str:
    signed = kind == "minus_reference"
    better = {m: one["measures"][m]["better"] for one in values["variants"].values() for m in one["measures"]}
    heads = [f"{name} ({'lower' if better[name] == 'lower' else 'higher'} is better)" for name in measures]
    rows = [
        [variant, str(len(one["seeds"])), *(_cell(one[kind].get(measure), signed=signed) for measure in measures)]
        for variant, one in values["variants"].items()
        if one[kind]
    ]
    return _table(["variant", "seeds", *heads], rows)


def _settings_table(values: Mapping[str, Any]) -> str:
    rows = [
        [f"`{key}`", *(_value(found.get(v)) for v in values["variants"])] for key, found in values["settings"].items()
    ]
    return _table(["setting", *values["variants"]], rows)


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _cell(found: Mapping[str, Any] | None, *, signed: bool) -> str:
    if found is None:
        return ""
    write: Callable[[float], str] = (lambda value: f"{value:+.2f}") if signed else (lambda value: f"{value:.2f}")
    low, high = found["interval"]
    return f"{write(found['value'])} ({write(low)} to {write(high)})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
