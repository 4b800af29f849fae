"""A checkpoint's text skills beside its own base LLM's, by the harness's tasks and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.jsonl import write_rows
from vtblender_nemo.evaluation.scores import Measure
from vtblender_nemo.evaluation.text.config import TextTask, read_text_tasks

if TYPE_CHECKING:
    from vtblender_nemo.evaluation.text.language_model import TextLLM
    from vtblender_nemo.evaluation.text.measures import Answered, Key, Run
    from vtblender_nemo.models.vtblender import VTBlenderModel

CHECKPOINT, BASE = "", "base"


def evaluate_text(
    model: VTBlenderModel,
    cfg: Mapping[str, Mapping[str, Any]] | Sequence[TextTask],
    output_dir: str | Path,
    *,
    model_id: str,
    base_dir: Path = Path(),
) -> list[Measure]:
    """Runs text tasks on the checkpoint's LLM and on its base, with the same prompts, and compares them item by item.

    Predictions lie in `output_dir/predictions/TASK.jsonl` and `TASK.base.jsonl`. Answers are kept as they come: a second call
    with the same `model_id` computes only what is missing.

    Args:
        model: the checkpoint.
        cfg: settings by name of the task, as in `conf/evaluation/text/*.yaml`, or tasks that were read.
        output_dir: made if needed.
        model_id: must change when the weights do, or old answers are taken for new ones.
        base_dir: folder that relative paths in `cfg` start from.

    Returns:
        For every task its measures for the checkpoint (variant ""), the base LLM ("base"), and the paired difference
        ("minus_base"), all items first, then by group.

    Raises:
        MissingDependencyError: without lm-evaluation-harness, or what a task of it needs.
        ConfigError: an unknown task, setting, metric or filter.
        DataError: data that are missing, empty or lack a column.
        ModelFileError: the base LLM of a fully fine-tuned model is not where it was.
    """
    tasks = read_text_tasks(cfg, base_dir) if isinstance(cfg, Mapping) else list(cfg)
    from vtblender_nemo.evaluation.text.harness_tasks import load_tasks
    from vtblender_nemo.evaluation.text.measures import check_measures, measures_of

    folder = Path(output_dir) / "predictions"
    found: list[Measure] = []
    for task in tasks:
        loaded = load_tasks(task)
        runs = {CHECKPOINT: _run(model, model.llm, task, loaded, folder, CHECKPOINT, model_id)}
        check_measures(task, runs[CHECKPOINT])
        if task.base:
            with base_llm(model) as llm:
                runs[BASE] = _run(model, llm, task, loaded, folder, BASE, model_id)
        for variant, run in runs.items():
            rows = (_row(task, key, item) for key, item in run.items.items())
            write_rows(rows, folder / f"{_title(task, variant)}.jsonl")
        found += measures_of(task, runs[CHECKPOINT], runs.get(BASE))
    return found


@contextmanager
def base_llm(model: VTBlenderModel) -> Iterator[TextLLM]:
    """The LLM that a model was built on: without its LoRA, or read again where its own weights were trained."""
    if not model.cfg.get("train_llm", False):
        with model.llm.without_lora():
            yield model.llm
        return
    from omegaconf import OmegaConf

    from vtblender_nemo.models.building import make_llm

    cfg = OmegaConf.merge(model.cfg, {"train_llm": False, "lora": None, "pretrained_weights": True})
    yield make_llm(cfg, restoring=False).to(model.device).eval()


def _run(
    model: VTBlenderModel,
    llm: TextLLM,
    task: TextTask,
    loaded: dict[str, Any],
    folder: Path,
    variant: str,
    model_id: str,
) -> Run:
    from lm_eval.evaluator import evaluate

    from vtblender_nemo.evaluation.text.harness_tasks import seeded, spread
    from vtblender_nemo.evaluation.text.language_model import HarnessLM
    from vtblender_nemo.evaluation.text.measures import collect
    from vtblender_nemo.models.generation import answering

    journal = Journal(folder / f".{_title(task, variant)}.harness.journal")
    with answering(model), seeded(loaded):
        lm = HarnessLM(
            llm,
            model.chat_format,
            batch_size=task.batch_size,
            journal=journal,
            settings={"model": model_id, "variant": variant},
        )
        try:
            results = evaluate(
                lm,
                loaded,
                samples=spread(loaded, task.limit),
                bootstrap_iters=0,  # intervals are made here, by item
                apply_chat_template=True,
                fewshot_as_multiturn=True,
            )
        except LookupError as error:
            if "nltk" not in str(error):
                raise
            raise MissingDependencyError(
                f"answers to {task.name} are kept, but to score them sentences have to be counted by data of NLTK",
                knob="python -m nltk.downloader punkt_tab",
            ) from error
    assert results is not None, "only other processes than the first get nothing"
    return collect(results, version("lm_eval"))


def _title(task: TextTask, variant: str) -> str:
    return f"{task.name}.{variant}" if variant else task.name


def _row(task: TextTask, key: Key, item: Answered) -> dict[str, Any]:
    sample = item.any
    responses = [response[0] for response in sample["resps"]]
    custom: dict[str, Any] = {
        "harness_task": key[0],
        "doc_id": key[1],
        "scores": {measure.name: _percent(item, measure) for measure in task.measures},
    }
    if len(responses) > 1 or not isinstance(responses[0], str):  # log-likelihoods of choices
        choices = [arguments[1].strip() for arguments in sample["arguments"]]
        custom["log_likelihoods"] = dict(zip(choices, (value for value, _ in responses), strict=False))
        prediction = choices[max(range(len(responses)), key=lambda number: responses[number][0])]
        target = sample["target"]
        reference = choices[target] if isinstance(target, int) and target < len(choices) else target
    else:
        custom["extracted"] = {name: found["filtered_resps"][0] for name, found in item.samples.items()}
        prediction, reference = responses[0], sample["target"]
    own_id = sample["doc"].get("id")
    return {
        "id": own_id if isinstance(own_id, str) else f"{key[0]}:{key[1]}",
        "task": task.name,
        "prediction": prediction,
        "reference": reference if isinstance(reference, str) else json.dumps(reference, default=str),
        "asked": sample["arguments"][0][0],
        "audio_secs": 0.0,
        "audios": [],
        "custom": custom,
    }


def _percent(item: Answered, measure: Any) -> float:
    hits, tries = item.hits(measure)
    return 100.0 * hits / tries
