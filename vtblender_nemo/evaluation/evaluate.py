"""One model, one task file, one folder: predictions, scores and the report; the work behind `examples/evaluate_vtb.py`."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vtblender_nemo.common.conversation import Audio, Turn
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import file_sha256
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.jsonl import write_rows
from vtblender_nemo.evaluation.kinds import TEXT
from vtblender_nemo.evaluation.runner import Answerer, Decoding, Prediction, predict
from vtblender_nemo.evaluation.scores import SCORES_FILE, Measure, ScoreSheet, read_scores, write_scores
from vtblender_nemo.evaluation.scoring import score_task
from vtblender_nemo.evaluation.tasks import BASE, Task, load_tasks
from vtblender_nemo.models.loading import load_model, pick_device

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, and how.

    Attributes:
        model: a `.nemo` file.
        output_dir: made if needed; one model's.
        task_file: a path, or the name of a file of `conf/evaluation`.
        tasks: names of tasks; empty means all of the file.
        variables: values for the task file's variables.
        limit: at most so many items of every task.
        batch_size: most items answered at once.
        batch_tokens: most positions in a batch, see `Decoding`.
        device: `cuda`, `cuda:1`, `cpu`; `auto` takes a GPU where there is one.
        compare: folders of other evaluations, for the report.
        progress: show bars.
    """

    model: Path
    output_dir: Path
    task_file: str = "tiny"
    tasks: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 64
    batch_tokens: int = 16384
    device: str = "auto"
    compare: Sequence[Path] = ()
    progress: bool = True


def evaluate_model(config: EvaluationConfig) -> ScoreSheet:
    """Answers, scores and reports all tasks; scores are on disk after each.

    A second call with the same model and settings answers only what is missing. Tasks that the folder has scores of already and
    that are not asked for now keep them.

    Returns:
        All that the folder holds now, as in its `scores.json`.

    Raises:
        VTBlenderError: whatever the user can mend: an unknown task, a missing field, an empty set, a folder with another
            model's scores, items that all failed, a number that is not finite.
    """
    tasks = load_tasks(config.task_file, only=config.tasks, variables=config.variables, limit=config.limit)
    fingerprint = file_sha256(config.model)
    sheet = _earlier(config.output_dir, fingerprint)
    for folder in config.compare:
        read_scores(folder)  # a mistake shows now
    device = pick_device(config.device)
    model = load_model(config.model, device)
    about = {"path": str(config.model), "sha256": fingerprint, **describe(model, config.model)}
    sheet = replace(sheet, model=about, config=config.task_file)
    for task in tasks:
        measures, secs = _run_task(task, model, config, fingerprint, device_name(device))
        sheet = _with_task(sheet, task, measures, secs)
        write_scores(sheet, config.output_dir / SCORES_FILE)
    from vtblender_nemo.evaluation.page.write import write_page

    write_page(config.output_dir, config.compare)
    return sheet


def device_name(device: str) -> str:
    """What a reader knows a device by, as `NVIDIA H100 80GB HBM3` or `cpu, 8 threads`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{device}, {torch.get_num_threads()} threads"


def describe(model: VTBlenderModel, path: Path) -> dict[str, Any]:
    """Name, parts and trained parameters of a model."""
    return {
        "name": path.stem,
        "llm": model.cfg.pretrained_llm,
        "asr": model.cfg.pretrained_asr,
        "trained_parameters": model.trained_parameters(),
    }


@contextmanager
def as_base(model: VTBlenderModel) -> Iterator[None]:
    """Makes a model answer with the LLM that it was built on, as that was before it learned to hear."""
    from vtblender_nemo.evaluation.text.evaluate import base_llm

    own = model.speech_llm.llm
    with base_llm(model) as llm:
        model.speech_llm.llm = cast(Any, llm)
        try:
            yield
        finally:
            model.speech_llm.llm = own


def _run_task(
    task: Task, model: VTBlenderModel, config: EvaluationConfig, fingerprint: str, device: str
) -> tuple[list[Measure], float]:
    """The measures of a task, and the seconds of generation behind them, however many runs it took."""
    if task.kind == TEXT:
        from vtblender_nemo.evaluation.text.evaluate import evaluate_text

        started = time.perf_counter()
        found = evaluate_text(model, {task.name: task.text}, config.output_dir, model_id=fingerprint)
        return found, time.perf_counter() - started
    predictions = {}
    for variant in task.sets:
        with as_base(model) if variant == BASE else nullcontext():
            predictions[variant] = _answer(task, variant, model, config, fingerprint, device)
    secs = sum(one.secs or 0.0 for given in predictions.values() for one in given)
    return score_task(task, predictions, folder=config.output_dir / PREDICTIONS), secs


def _answer(
    task: Task, variant: str, model: Answerer, config: EvaluationConfig, fingerprint: str, device: str
) -> list[Prediction]:
    """Predictions of a variant, also written to `predictions/TASK[.VARIANT].jsonl`."""
    import torch

    items, folder = task.sets[variant], config.output_dir / PREDICTIONS
    title = f"{task.name}.{variant}" if variant else task.name
    try:
        predictions = predict(
            model,
            items,
            decoding=Decoding(task.max_new_tokens, config.batch_size, config.batch_tokens),
            journal=Journal(folder / f".{title}.journal"),
            model_id=fingerprint,
            device=device,
            progress=config.progress,
            title=title,
        )
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the memory of {device} does not hold a batch of {title}; what was answered before is kept",
            value={"batch_tokens": config.batch_tokens, "batch_size": config.batch_size},
            expected="smaller batches",
            knob="--batch-tokens or --batch-size",
        ) from error
    path = folder / f"{title}.jsonl"
    write_rows((prediction_row(item, one) for item, one in zip(items, predictions, strict=True)), path)
    errors = [one.error for one in predictions if one.text is None]
    if errors:
        logger.warning(
            "%d of %d items failed and are not scored, see %s; the first: %s", len(errors), len(items), path, errors[0]
        )
    return predictions


def prediction_row(item: Item, answer: Prediction) -> dict[str, Any]:
    """A row of a file of predictions; audio that is in no file of its own, as made noise, counts in `audio_secs` alone."""
    turns = item.conversation.turns if item.conversation is not None else ()
    audios = [audio for turn in turns for audio in turn.audios]
    row: dict[str, Any] = {
        "id": item.id,
        "task": item.task,
        "prediction": answer.text,
        "reference": item.reference,
        "asked": _asked(turns),
        "audio_secs": round(sum(audio.duration_secs for audio in audios), 3),
        "audios": [place for audio in audios if (place := _audio_row(audio)) is not None],
    }
    if item.custom:
        row["custom"] = dict(item.custom)
    return row | ({"error": answer.error} if answer.text is None else {})


def _asked(turns: Sequence[Turn]) -> str:
    """What an item says, audio as `[audio]`; speakers are named where there are several turns."""
    texts = [
        " ".join("[audio]" if isinstance(part, Audio) else part.text.strip() for part in turn.parts) for turn in turns
    ]
    if len(turns) == 1:
        return texts[0]
    return "\n".join(f"{turn.role}: {text}" for turn, text in zip(turns, texts, strict=True))


def _audio_row(audio: Audio) -> dict[str, Any] | None:
    """Where a player finds an audio."""
    recording = getattr(audio.cut, "recording", None)
    source = recording.sources[0] if recording is not None and len(recording.sources) == 1 else None
    if source is None or source.type != "file" or getattr(source, "member", None) is not None:
        return None
    start = audio.cut.start + getattr(source, "start_secs", 0.0)
    path = str(Path(source.source).resolve())
    return {"path": path, "offset": round(start, 3), "duration": round(audio.duration_secs, 3)}


def _earlier(folder: Path, fingerprint: str) -> ScoreSheet:
    """What the folder holds of this model already."""
    path = folder / SCORES_FILE
    if not path.exists():
        return ScoreSheet([])
    sheet = read_scores(path)
    if sheet.model.get("sha256") != fingerprint:
        found = {name: sheet.model.get(name) for name in ("path", "sha256")}
        raise ConfigError(
            "the folder holds scores of another model",
            path=path,
            value=found,
            expected="a folder for each model, or none of this file",
            knob="--output-dir",
        )
    return sheet


def item_set(items: Sequence[Item]) -> str:
    """A digest of what is asked, word by word, and of the right answers; where the files lie changes nothing."""
    asked = [
        [item.id, _asked(item.conversation.turns) if item.conversation is not None else None, item.reference]
        for item in items
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _with_task(sheet: ScoreSheet, task: Task, measures: Sequence[Measure], secs: float) -> ScoreSheet:
    """The sheet with a task's measures in place of earlier ones, or behind those of the others."""
    name = task.name
    order = dict.fromkeys([*(measure.task for measure in sheet.measures), name])
    merged = [measure for one in order for measure in (measures if one == name else sheet.of_task(one))]
    has_base = any(measure.variant == BASE for measure in merged)
    return replace(
        sheet,
        measures=merged,
        base={"name": sheet.model.get("llm")} if has_base else None,
        seconds={**sheet.seconds, name: round(secs, 3)},
        item_sets={**sheet.item_sets, **({name: item_set(task.sets[""])} if task.sets else {})},
    )
