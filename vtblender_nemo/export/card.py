"""The model card: `README.md` with the metadata of the Hugging Face hub, made of what is known and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vtblender_nemo.common.files import write_text
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet
from vtblender_nemo.export.about import About
from vtblender_nemo.export.options import Written, is_hub_name, shown

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

CARD = "README.md"
UNKNOWN = "unknown"
_PACKAGES = ("vtblender_nemo", "nemo_toolkit", "torch", "transformers", "peft", "lhotse")
_PAPER = "[VoiceTextBlender](https://arxiv.org/abs/2410.17485)"


def write_card(model: VTBlenderModel, written: Written, about: About, folder: Path, *, name: str) -> None:
    """Writes the card of an export.

    Args:
        model: what was exported.
        written: what the export tells of itself; `FOLDER` in its usage becomes the name.
        about: what is known beside.
        folder: that holds the export.
        name: of the model, as the hub will show it.
    """
    header = yaml.safe_dump(_header(model, written, about), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---",
        f"# {name}",
        f"{written.what} The model was trained by {_PAPER}: a speech encoder and an LLM, joined, on text and speech at once.",
        f"```{written.language}\n{written.usage.replace('FOLDER', name)}\n```",
        "\n".join(f"- {note}" for note in written.notes),
        "## What it is made of\n\n" + _made_of(model, about),
        "## Training data\n\n" + _data(about),
        "## Scores\n\n" + _scores(about.scores),
        "## Versions\n\n" + _table(("package", "version"), [(package, _version(package)) for package in _PACKAGES]),
    ]
    write_text("\n\n".join(part for part in parts if part) + "\n", folder / CARD)


def _header(model: VTBlenderModel, written: Written, about: About) -> dict[str, Any]:
    bases = [str(model.cfg.pretrained_llm), str(model.cfg.pretrained_asr)]
    named = [base for base in bases if is_hub_name(base)]
    return {
        "license": about.license or UNKNOWN,
        "library_name": written.library,
        "pipeline_tag": written.task,
        **({"base_model": named} if named else {}),
        "tags": ["voicetextblender", "speech", "nemo"],
    }


def _made_of(model: VTBlenderModel, about: About) -> str:
    trained = model.trained_parameters()
    lines = [
        f"- LLM: `{shown(model.cfg.pretrained_llm)}` ({type(model.llm.causal_lm).__name__}), "
        + ("trained" if "llm" in trained else "frozen"),
        f"- speech encoder: `{shown(model.cfg.pretrained_asr)}`, " + ("trained" if "encoder" in trained else "frozen"),
        f"- licence of the model: {about.license or UNKNOWN}; those of the LLM and the encoder apply besides",
    ]
    rows = [(part, f"{count:,}") for part, count in trained.items()]
    return "\n".join(lines) + "\n\n" + _table(("trained part", "parameters"), rows)


def _data(about: About) -> str:
    names = list(about.shares if about.shares is not None else about.data_licenses)
    if not names:
        return "Unknown: the training left no facts beside the model."
    rows = []
    for name in names:
        wanted, seen = (about.shares or {}).get(name, (None, None))
        rows.append((name, _percent(wanted), _percent(seen), about.data_licenses.get(name, UNKNOWN)))
    return "Shares are of rows, or of micro-batches where sources take turns.\n\n" + _table(
        ("source", "wanted share", "share seen", "licence"), rows
    )


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f}%"


def _scores(sheet: ScoreSheet | None) -> str:
    if sheet is None:
        return "Unknown: no evaluation was given."
    rows = [_score_row(measure) for measure in _main_measures(sheet)]
    text = f"Of the model before it was exported, by `{sheet.config}`; main measures, with 95% intervals.\n\n"
    return text + _table(("task", "measure", "value", "interval", "items", "better"), rows)


def _main_measures(sheet: ScoreSheet) -> Iterator[Measure]:
    """The first measure of every task, as asked and over all items."""
    seen: set[str] = set()
    for measure in sheet.measures:
        if measure.task not in seen and not measure.variant and not measure.group:
            seen.add(measure.task)
            yield measure


def _score_row(measure: Measure) -> tuple[str, ...]:
    interval = f"{measure.low:.1f} to {measure.high:.1f}"
    return measure.task, measure.measure, f"{measure.value:.1f}", interval, str(measure.items), measure.better


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
