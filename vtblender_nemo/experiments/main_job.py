"""The main job: a world or the user's data, one joint training, a `.nemo`, and a report of what was learned."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.common.host import quiet_host
from vtblender_nemo.common.stopping import stopped_by
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.evaluation.items import Item, read_items
from vtblender_nemo.evaluation.metrics import check_metric
from vtblender_nemo.evaluation.plots import read_history, write_plots
from vtblender_nemo.evaluation.report import RunFacts, SourceShare, build_report, write_report
from vtblender_nemo.evaluation.runner import Answerer, Decoding, EvalTask, TaskResult, evaluate
from vtblender_nemo.evaluation.tables import show_report
from vtblender_nemo.evaluation.variants import make_variant, text_twin
from vtblender_nemo.training.checkpoints.config import CheckpointConfig
from vtblender_nemo.training.ranks import is_first, is_launched, wait_for_first

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"
SECONDS_FILE = "seconds.json"
FACTS_FILE = "facts.json"
WORLD_FILE = "world.json"
HISTORY_FILE = "history.jsonl"


def run(cfg: DictConfig) -> None:
    """Runs what is not done yet: checks, world, training, evaluation, contrasts, report.

    Args:
        cfg: a configuration of `conf/`, as `vtb_tiny` or `vtb_blend`.

    Raises:
        VTBlenderError: whatever the user can mend; the message tells how.
        Stopped: by a signal, wherever it was; the same call goes on.
    """
    with stopped_by(read_config(CheckpointConfig, cfg.get("checkpoints") or {}, "checkpoints").stop_signals):
        _run(cfg)


def _run(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "output_dir") or not nemo_path(cfg).exists():
        _check(cfg)  # before the seconds that it takes to load the host and the models
    directory = Path(cfg.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    clock = Clock(directory / SECONDS_FILE)
    quiet_host()
    if cfg.get("tiny"):
        with clock("world"):
            world = _prepare_world(cfg.tiny)
        _note(world, directory / WORLD_FILE)
    model_path = train(cfg, clock)
    report_path = directory / REPORT_FILE
    finished = _is_reported(cfg, report_path)
    if cfg.get("contrast") and not finished:
        _train_contrasts(cfg, clock)
    if not is_first():  # one process evaluates; the others keep the launcher from taking their end for that of all
        if cfg.get("evaluation") and is_launched():
            wait_for_first(lambda: _is_reported(cfg, report_path), report_path)
        return
    if not cfg.get("evaluation"):
        print(f"Trained: {model_path}")
        return
    if finished:
        print(f"Finished before: {model_path}. Delete {report_path} to evaluate anew.")
    else:
        _report(cfg, model_path, clock, report_path)
    report = json.loads(report_path.read_text())
    show_report(report)
    print(
        f"model   {model_path}\nreport  {report_path}\nplots   {', '.join(str(p) for p in sorted(directory.glob('*.png')))}"
    )


def train(cfg: DictConfig, clock: Clock) -> Path:
    """Trains to the end, or goes on, and saves `output_dir/NAME.nemo`, unless that stands already.

    Returns:
        The path of the `.nemo`.
    """
    from vtblender_nemo.training.checks import saved_checkpoint
    from vtblender_nemo.training.fit import CONFIG_FILE, build_data, build_model, fit, load_best
    from vtblender_nemo.training.run_config import check_same_run, hold_to_config

    directory, path = Path(cfg.output_dir), nemo_path(cfg)
    check_same_run(cfg, directory / CONFIG_FILE)
    if path.exists():
        return path
    model = build_model(cfg)
    data = build_data(cfg, model)
    hold_to_config(cfg, directory / CONFIG_FILE)  # only now: what cannot be loaded or imitated does not bind the folder
    if cfg.warm_start.steps:
        with clock("warm_start"):
            _warm_start(cfg, model)
    with clock("training"):
        trainer = fit(cfg, model, data)
        if saved_checkpoint(cfg.save_checkpoint, validated=bool(data.validation_names)) == "best":
            load_best(trainer, model)
        # before the model, whose file says that training is done; of the first rank, whose share is that of all
        facts = {"sources": data.shares(), "skipped": data.skipped(), "trained_parameters": model.trained_parameters()}
        _note(facts, directory / FACTS_FILE)
        model.save_to(path)
    return path


def nemo_path(cfg: DictConfig) -> Path:
    """Where a training puts its `.nemo`."""
    directory = Path(cfg.output_dir)
    return directory / f"{directory.resolve().name}.nemo"


def _check(cfg: DictConfig) -> None:
    """Finds what is wrong while it costs nothing, and says what a blend of the user's own does in the tiny world."""
    from vtblender_nemo.training.checks import check_config, lies_in

    world = cfg.tiny.directory if cfg.get("tiny") else None
    check_config(cfg, made=world)
    if world is None or lies_in(cfg.data.train_ds.input_cfg, world):
        return
    if cfg.get("contrast"):
        raise ConfigError(
            "contrasts leave the text chats out of the tiny world's own blend",
            value=cfg.data.train_ds.input_cfg,
            expected="that blend",
            knob="contrast=false",
        )
    logger.warning(
        "data.train_ds.input_cfg is a blend of your own, the models are those of the tiny world: a small LLM and encoder are "
        "made first (minutes), then trained on your blend, and tested on the tiny world's sentences. "
        "For pretrained models: --config-name vtb_blend."
    )


class Clock:
    """Adds up the seconds that each stage took, over stops and restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started
            _note(self.seconds, self._path)


class BaseLLM:
    """The language model inside a VTBlender, without what training added to it.

    Args:
        model: with a frozen LLM; its LoRA is switched off while it answers.
    """

    def __init__(self, model: VTBlenderModel) -> None:
        self._model = model
        self.token_equivalent_duration = model.token_equivalent_duration

    def generate(self, conversations: list[Any], **options: Any) -> list[str]:
        with self._model.llm.without_lora():
            return self._model.generate(conversations, **options)


def _warm_start(cfg: DictConfig, model: VTBlenderModel) -> None:
    from vtblender_nemo.training.fit import open_data, seed_for_training
    from vtblender_nemo.training.warm_start import kept_name, warm_start

    settings = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    settings.data.train_ds.input_cfg = settings.warm_start.input_cfg
    settings.data.validation_ds = None
    path = Path(cfg.output_dir) / "warm_start.safetensors"
    if cfg.warm_start.keep_in is not None:
        path = Path(cfg.warm_start.keep_in) / kept_name(settings, model)
    if not is_first():
        wait_for_first(path.exists, path)
    warm_start(model, open_data(settings, model), settings.warm_start, path)
    seed_for_training(cfg)  # the same random numbers follow a warm start that was made and one that was kept


def _prepare_world(cfg: DictConfig) -> dict[str, Any]:
    """Makes the tiny world, or reuses it; returns what its LLM and encoder can do. The other processes wait for the first."""
    from vtblender_nemo.tiny.config import config_from
    from vtblender_nemo.tiny.world import is_made, prepare

    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    directory = Path(values.pop("directory"))
    config = config_from(values)
    if is_first():
        return prepare(config, directory).report
    wait_for_first(lambda: is_made(config, directory), directory)
    return {}


def _report(cfg: DictConfig, model_path: Path, clock: Clock, report_path: Path) -> None:
    directory = Path(cfg.output_dir)
    with clock("evaluation"):
        model = _restore(model_path)
        results = _evaluate(cfg.evaluation, model, directory / "predictions", model_path)
        base_text = _evaluate_base(cfg.evaluation, model, directory / "predictions" / "base", model_path)
    contrasts = _evaluate_contrasts(cfg, clock) if cfg.get("contrast") else None
    facts = json.loads((directory / FACTS_FILE).read_text())
    sources = {name: SourceShare(share["weight"], share["seen"]) for name, share in facts["sources"].items()}
    about = {
        "seed": cfg.seed,
        "base": model.cfg.pretrained_llm,
        "warm_start_steps": cfg.warm_start.steps,
        "skipped_rows": facts["skipped"],
    }
    if (directory / WORLD_FILE).exists():
        about["world"] = json.loads((directory / WORLD_FILE).read_text())
    report = build_report(
        results,
        base_text=base_text,
        contrasts=contrasts,
        facts=RunFacts(clock.seconds, sources, facts["trained_parameters"], about),
    )
    write_plots(report, read_history(directory / HISTORY_FILE), directory)
    write_report(report, report_path)


def _contrasts(cfg: DictConfig) -> dict[str, DictConfig]:
    """The same steps, learning rates and seed on speech alone: with LoRA, and with the LLM unfrozen."""
    found = {}
    for name in ("speech_only_lora", "speech_only_unfrozen"):
        contrast = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        contrast.output_dir = f"{cfg.output_dir}/{name}"
        contrast.data.train_ds.input_cfg = [s for s in contrast.data.train_ds.input_cfg if s.type != "text_chat"]
        if name == "speech_only_unfrozen":
            contrast.model.train_llm, contrast.model.lora = True, None
            contrast.model.imitation = None  # a trained LLM is no teacher; answers are learned as they are
            contrast.model.optim.lr_scale.pop("lora", None)
        contrast.evaluation.tasks = {t: task for t, task in contrast.evaluation.tasks.items() if t in ("asr", "text")}
        found[name] = contrast
    return found


def _train_contrasts(cfg: DictConfig, clock: Clock) -> None:
    """On all processes together, before one of them evaluates."""
    for name, contrast in _contrasts(cfg).items():
        with clock(name):
            train(contrast, Clock(Path(contrast.output_dir) / SECONDS_FILE))


def _evaluate_contrasts(cfg: DictConfig, clock: Clock) -> dict[str, dict[str, TaskResult]]:
    found: dict[str, dict[str, TaskResult]] = {}
    for name, contrast in _contrasts(cfg).items():
        path = nemo_path(contrast)
        with clock(name):
            found[name] = _evaluate(contrast.evaluation, _restore(path), path.parent / "predictions", path)
    return found


def _restore(path: Path) -> VTBlenderModel:
    from vtblender_nemo.models.vtblender import VTBlenderModel

    return VTBlenderModel.restore_from(path).eval()


def _evaluate(cfg: DictConfig, model: Answerer, directory: Path, model_path: Path) -> dict[str, TaskResult]:
    return evaluate(
        model,
        [_task(name, task) for name, task in cfg.tasks.items()],
        output_dir=directory,
        decoding=Decoding(cfg.max_new_tokens, cfg.batch_size, cfg.batch_tokens),
        model_id=f"{model_path}@{model_path.stat().st_mtime_ns}",
    )


def _evaluate_base(cfg: DictConfig, model: VTBlenderModel, directory: Path, model_path: Path) -> TaskResult | None:
    if "text" not in cfg.tasks or model.cfg.get("train_llm"):
        return None  # where the LLM itself was trained, its base is not there any more
    settings = OmegaConf.merge(cfg, {})
    settings.tasks = {"text": cfg.tasks.text}
    return _evaluate(settings, BaseLLM(model), directory, model_path)["text"]


def check_tests(cfg: DictConfig) -> None:
    """Reads every test set and makes its variants, before hours of training whose result they are to score.

    Args:
        cfg: the section `evaluation`.

    Raises:
        DataError: a test set that is missing or cannot be used; names file and line.
        ConfigError: an unknown metric, option or variant.
    """
    for name, values in cfg.tasks.items():
        task = _task(name, values)
        check_metric(task.metric, task.metric_options)
        for variant in task.variants:
            make_variant(variant, task.items)


def answer_transcripts(cfg: DictConfig, tasks: Mapping[str, DictConfig], model: Path, directory: Path) -> None:
    """Lets the base LLM inside a model answer the items of some tasks with transcripts in place of their audios.

    Args:
        cfg: the section `evaluation`.
        tasks: by name; their items need `custom.transcript`.
        model: the `.nemo`.
        directory: where predictions are written, `TASK.jsonl`.
    """
    evaluate(
        BaseLLM(_restore(model)),
        [replace(task, items=text_twin(task.items), variants=()) for task in map(_task, tasks, tasks.values())],
        output_dir=directory,
        decoding=Decoding(cfg.max_new_tokens, cfg.batch_size, cfg.batch_tokens),
        model_id=f"{model}@{model.stat().st_mtime_ns}",
    )


def _task(name: str, cfg: DictConfig) -> EvalTask:
    items: list[Item] = [item for path in cfg["items"] for item in read_items(Path(path))]
    return EvalTask(
        name,
        items,
        cfg.metric,
        metric_options=dict(cfg.get("metric_options", {})),
        variants=tuple(cfg.get("variants", ())),
        group_by=cfg.get("group_by", "kind"),
    )


def _is_reported(cfg: DictConfig, report_path: Path) -> bool:
    """Whether there is a report that holds all that the configuration asks for."""
    return report_path.exists() and (not cfg.get("contrast") or "contrast" in json.loads(report_path.read_text()))


@rank_zero_only
def _note(value: Any, path: Path) -> None:
    write_json(value, path)
