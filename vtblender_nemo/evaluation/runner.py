"""Items in, predictions and scores out.

Shapes: B items of a batch, I items of a set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from vtblender_nemo.common.conversation import Conversation, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.journal import Journal, prediction_key
from vtblender_nemo.evaluation.jsonl import write_rows
from vtblender_nemo.evaluation.metrics import Score, check_metric, compute
from vtblender_nemo.evaluation.variants import make_variant

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
"""A rough mean of subword vocabularies; used only to put items of like length into one batch."""


class Answerer(Protocol):
    """What is evaluated: a `VTBlenderModel`, or anything else that answers conversations."""

    token_equivalent_duration: float

    def generate(self, conversations: list[Conversation], *, max_new_tokens: int, **options: Any) -> list[str]: ...


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: length limit of an answer.
        batch_size: most items in a batch.
        batch_tokens: most positions in a batch: speech frames, text (estimated), the longest answer and padding; an
            item that is longer by itself is a batch of its own.
        options: passed on to `model.generate`, as `temperature`.
    """

    max_new_tokens: int = 128
    batch_size: int = 32
    batch_tokens: int = 8192
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is too small", value=getattr(self, name), expected="at least 1", knob=name)


@dataclass(frozen=True)
class Prediction:
    """An answer, or the reason why there is none.

    Attributes:
        text: the answer.
        error: why there is none.
        secs: of generation, the item's share of its batch; None where it was not measured.
        device: that the model ran on.
    """

    text: str | None
    error: str = ""
    secs: float | None = None
    device: str = ""


def predict(
    model: Answerer,
    items: Sequence[Item],
    *,
    decoding: Decoding = Decoding(),
    journal: Journal | None = None,
    model_id: str = "",
    device: str = "",
    progress: bool = True,
    title: str = "generate",
) -> list[Prediction]:
    """Answers every item; an item with a fault of its own (broken audio, too long) fails alone.

    Args:
        model: see `Answerer`.
        items: in any order; batches are made by length, the longest first.
        decoding: batch sizes and limits.
        journal: keeps what is done; items found in it are not answered again.
        model_id: names the model in the journal, as path and time of change.
        device: that the model runs on, for readers of the times.
        progress: show a bar with the time left.
        title: stands before the bar.

    Returns:
        I predictions in the order of `items`.
    """
    journal = journal or Journal(None)
    settings = {"model": model_id, "max_new_tokens": decoding.max_new_tokens, **decoding.options}
    predictions: dict[int, Prediction] = {}
    keys: dict[int, str] = {}
    for number, item in enumerate(items):
        if item.conversation is None:
            predictions[number] = Prediction(None, item.error)
            continue
        keys[number] = prediction_key(item, settings)
        if (kept := journal.timed(keys[number])) is not None:
            predictions[number] = Prediction(kept.text, secs=kept.secs, device=kept.device)
    waiting = {number: items[number] for number in keys if number not in predictions}
    with tqdm(total=len(items), initial=len(predictions), desc=title, unit="item", disable=not progress) as bar:
        for batch in _batches(waiting, decoding, model.token_equivalent_duration):
            answers = _answer(model, [items[number] for number in batch], decoding, device)
            predictions.update(zip(batch, answers, strict=True))
            done = {keys[number]: answer for number, answer in zip(batch, answers, strict=True)}
            journal.add(
                {key: answer.text for key, answer in done.items() if answer.text is not None},
                secs={key: answer.secs for key, answer in done.items() if answer.secs is not None},
                device=device,
            )
            bar.update(len(batch))
    return [predictions[number] for number in range(len(items))]


@dataclass(frozen=True)
class EvalTask:
    """A test set and how it is scored.

    Attributes:
        name: of the task, as `asr`; unique in an evaluation.
        items: the test set.
        metric: a name in `metrics.METRICS`.
        metric_options: of the metric, as `{"normalizer": "basic"}`.
        variants: names in `variants.VARIANTS` to be scored too: `silence`, `shuffle`, `text`.
        group_by: field of `custom` whose values are scored one by one as well; `task` means the items' own task, for a
            set that is put together from several.
        max_new_tokens: limit for this task in place of the decoding's.
    """

    name: str
    items: Sequence[Item]
    metric: str
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    group_by: str = "kind"
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Scores:
    """The score of a set, and of its groups.

    Attributes:
        score: over all items that were answered.
        by_group: score of each group; empty where no item names its group.
        failed: items without an answer; they count nowhere else.
    """

    score: Score
    by_group: Mapping[str, Score]
    failed: int


@dataclass(frozen=True)
class TaskResult:
    """All scores of a task."""

    metric: str
    scores: Scores
    variants: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def score(self) -> Score:
        return self.scores.score


def evaluate(
    model: Answerer,
    tasks: Sequence[EvalTask],
    *,
    output_dir: Path,
    decoding: Decoding = Decoding(),
    model_id: str = "",
    progress: bool = True,
) -> dict[str, TaskResult]:
    """Answers and scores every task and its variants.

    Predictions lie in `output_dir/TASK.jsonl` (variants: `TASK.VARIANT.jsonl`). A second call with the same model and
    items answers only what is missing.

    Args:
        model: see `Answerer`.
        tasks: with different names.
        output_dir: made if needed.
        decoding: batch sizes and limits.
        model_id: must change when the weights do, or old predictions are taken for new ones.
        progress: show bars.

    Raises:
        ConfigError: two tasks of one name, an unknown metric or variant.
        DataError: a task without items, or one whose items all failed.
    """
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ConfigError("two tasks of one name", value=names, expected="a name for each task", knob="tasks")
    run = _Run(model, output_dir, decoding, model_id, progress)
    sets = {
        task.name: _item_sets(task) for task in tasks
    }  # all of them first: a mistake in the last task shows at once
    return {task.name: _evaluate_task(task, sets[task.name], run) for task in tasks}


@dataclass(frozen=True)
class _Run:
    """What all tasks of an evaluation share."""

    model: Answerer
    output_dir: Path
    decoding: Decoding
    model_id: str
    progress: bool


def _item_sets(task: EvalTask) -> dict[str, Sequence[Item]]:
    """The items of a task as they are (""), and by name of the variant."""
    check_metric(task.metric, task.metric_options)
    if not task.items:
        raise DataError("task without items", value=task.name, expected="at least one item")
    return {"": task.items} | {name: make_variant(name, task.items) for name in task.variants}


def _evaluate_task(task: EvalTask, sets: Mapping[str, Sequence[Item]], run: _Run) -> TaskResult:
    titles = {name: f"{task.name}.{name}" if name else task.name for name in sets}
    scores = {name: _evaluate_items(task, items, titles[name], run) for name, items in sets.items()}
    return TaskResult(task.metric, scores.pop(""), scores)


def _evaluate_items(task: EvalTask, items: Sequence[Item], title: str, run: _Run) -> Scores:
    decoding = run.decoding
    if task.max_new_tokens is not None:
        decoding = Decoding(task.max_new_tokens, decoding.batch_size, decoding.batch_tokens, decoding.options)
    journal = Journal(run.output_dir / f".{title}.journal")
    predictions = predict(
        run.model, items, decoding=decoding, journal=journal, model_id=run.model_id, progress=run.progress, title=title
    )
    path = run.output_dir / f"{title}.jsonl"
    write_rows((_row(item, answer) for item, answer in zip(items, predictions, strict=True)), path)
    return _score(task, items, predictions, path)


def _score(task: EvalTask, items: Sequence[Item], predictions: Sequence[Prediction], path: Path) -> Scores:
    answered = [(item, answer.text) for item, answer in zip(items, predictions, strict=True) if answer.text is not None]
    failed = len(items) - len(answered)
    if failed:
        first = next(answer.error for answer in predictions if answer.text is None)
        logger.warning(
            "%d of %d items failed and are not scored, see %s; the first: %s", failed, len(items), path, first
        )
    if not answered:
        raise DataError("every item failed", path=path, expected="at least one prediction; see the errors in the file")

    def score(chosen: Sequence[tuple[Item, str]]) -> Score:
        texts, references = [text for _, text in chosen], [item.reference for item, _ in chosen]
        return compute(task.metric, texts, references, **task.metric_options)

    groups: dict[str, list[tuple[Item, str]]] = {}
    for item, text in answered:
        group = item.task if task.group_by == "task" else item.custom.get(task.group_by)
        if group is not None:
            groups.setdefault(str(group), []).append((item, text))
    return Scores(score(answered), {name: score(chosen) for name, chosen in sorted(groups.items())}, failed)


def _row(item: Item, answer: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id, "task": item.task, "prediction": answer.text, "reference": item.reference}
    if item.custom:
        row["custom"] = dict(item.custom)
    return row | ({"error": answer.error} if answer.text is None else {})


def _batches(items: Mapping[int, Item], decoding: Decoding, secs_per_token: float) -> Iterator[list[int]]:
    """Groups of item numbers of like length; the longest come first, so that a lack of memory shows at once."""
    lengths = {number: _length(item, secs_per_token) + decoding.max_new_tokens for number, item in items.items()}
    batch: list[int] = []
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        too_many_tokens = bool(batch) and (len(batch) + 1) * lengths[batch[0]] > decoding.batch_tokens
        if too_many_tokens or len(batch) == decoding.batch_size:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _length(item: Item, secs_per_token: float) -> float:
    assert item.conversation is not None
    parts = (part for turn in item.conversation.turns for part in turn.parts if isinstance(part, Text))
    return item.conversation.audio_secs / secs_per_token + sum(len(part.text) for part in parts) / CHARACTERS_PER_TOKEN


def _answer(model: Answerer, items: Sequence[Item], decoding: Decoding, device: str) -> list[Prediction]:
    """Answers a batch at once; where an item is at fault, one by one."""
    conversations = [item.conversation for item in items if item.conversation is not None]
    started = time.perf_counter()
    try:
        texts = model.generate(conversations, max_new_tokens=decoding.max_new_tokens, **decoding.options)
    except DataError as error:
        if len(items) == 1:
            return [Prediction(None, str(error))]
        return [answer for item in items for answer in _answer(model, [item], decoding, device)]
    if len(texts) != len(items):
        raise DataError(
            "the model gave not as many answers as it was asked for", value=len(texts), expected=f"{len(items)} answers"
        )
    secs = round((time.perf_counter() - started) / len(items), 6)
    return [Prediction(text, secs=secs, device=device) for text in texts]
