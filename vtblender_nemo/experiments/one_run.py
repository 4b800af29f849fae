"""One run of a sweep, as a process of its own: `python -m vtblender_nemo.experiments.one_run FOLDER`.

Reads FOLDER/job.yaml, a whole configuration, and writes FOLDER/run.json. Stopped, it continues where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from vtblender_nemo.common.errors import ConfigError, DataError, VTBlenderError
from vtblender_nemo.common.files import file_sha256, write_json
from vtblender_nemo.common.job_folder import alone
from vtblender_nemo.common.stopping import stop_with_parent
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.evaluation.jsonl import read_rows
from vtblender_nemo.evaluation.report import TEXT_TASK, score_name
from vtblender_nemo.experiments import main_job
from vtblender_nemo.experiments.blend_changes import PLACE, draw_speech, hear_only, leave_out, with_shares
from vtblender_nemo.experiments.curves import check_levels, measure_levels
from vtblender_nemo.experiments.measures import (
    Measured,
    Row,
    RunScores,
    measure,
    measure_agreement,
    named,
    write_run,
)
from vtblender_nemo.experiments.settings import VariantConfig, read_stages, read_variant
from vtblender_nemo.experiments.worlds import shared_world

JOB_FILE = "job.yaml"
STAGES = "stages"
BASE = "base"
CEILING = "ceiling"
TWIN = "text"
AGREEMENT = "agreement"


def make_run(cfg: DictConfig) -> RunScores:
    """World, changes of the variant, trainings, evaluation; what was done before is not done again.

    Args:
        cfg: a main configuration with a section `variant`.

    Raises:
        VTBlenderError: whatever the user can mend.
    """
    variant = read_variant(cfg)
    stages = read_stages(variant)
    if not cfg.get("evaluation"):
        raise ConfigError("a sweep needs tests", expected="tasks with items", knob="evaluation.tasks")
    directory = Path(cfg.output_dir)
    if cfg.get("tiny"):
        write_json(shared_world(cfg.tiny, variant.world_from), directory / main_job.WORLD_FILE)
    cfg = changed(cfg, variant)
    main_job.check_tests(cfg.evaluation)
    _check_ceilings(cfg, variant.ceilings)
    check_levels(cfg, variant.levels or {})
    configs = staged(cfg, variant) if stages else [cfg]
    for stage in configs[:-1]:
        main_job.train(stage, main_job.Clock(Path(stage.output_dir) / main_job.SECONDS_FILE))
    (directory / main_job.REPORT_FILE).unlink(missing_ok=True)  # of tests that may have been others; answers are kept
    main_job.run(configs[-1])
    if variant.ceilings:
        _answer_as_base(configs[-1], variant.ceilings)
    return _scores(configs, variant)


def changed(cfg: DictConfig, variant: VariantConfig) -> DictConfig:
    """The configuration with its variant's changes, resolved; the world is made, so its section goes.

    Raises:
        ConfigError: a change that does not fit the configuration.
    """
    result = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    with open_dict(result):
        result.tiny = None
        for key in variant.remove:
            _remove(result, key)
        train = result.data.train_ds
        if not (variant.leave_out or variant.share_percent or variant.speech_minutes):
            return result
        if train.get("fusion", "rows") != "rows" or train.get("temperature", 1.0) != 1.0:
            raise ConfigError(
                "changes of the blend need one list of sources with weights as they are",
                value={"fusion": train.get("fusion"), "temperature": train.get("temperature")},
                expected="fusion: rows, temperature: 1",
                knob="data.train_ds",
            )
        entries = read_input_cfg(train.input_cfg, PLACE)
        if variant.share_percent:
            entries = with_shares(entries, variant.share_percent)
        if variant.leave_out:
            entries = leave_out(entries, variant.leave_out)
        if variant.speech_minutes:
            heard, folder = draw_speech(entries, variant.speech_minutes), Path(cfg.output_dir) / "speech"
            entries = hear_only(entries, heard, folder)
            if result.warm_start.steps:
                first = read_input_cfg(result.warm_start.input_cfg, "warm_start.input_cfg")
                result.warm_start.input_cfg = hear_only(first, heard, folder / "warm_start")
        train.input_cfg = entries
    return result


def _remove(cfg: DictConfig, key: str) -> None:
    parent, _, name = key.removesuffix("?").rpartition(".")
    holder = OmegaConf.select(cfg, parent) if parent else cfg
    if OmegaConf.is_dict(holder) and name in holder:
        with open_dict(holder):
            del holder[name]
    elif not key.endswith("?"):
        raise ConfigError(
            "no such key to remove", value=key, expected=f"a key of the configuration, or {key}?", knob="variant.remove"
        )


def staged(cfg: DictConfig, variant: VariantConfig) -> list[DictConfig]:
    """One configuration for every stage, each from the weights of the one before; the last writes into the run's folder."""
    stages = read_stages(variant)
    configs: list[DictConfig] = []
    left = cfg.trainer.max_steps
    for number, stage in enumerate(stages, 1):
        config = OmegaConf.create(OmegaConf.to_container(cfg))
        last = number == len(stages)
        steps = left if last else round(cfg.trainer.max_steps * stage.steps_percent / 100)
        left -= steps
        config.trainer.max_steps = steps
        config.trainer.val_check_interval = min(config.trainer.val_check_interval or steps, steps)
        if stage.leave_out:
            config.data.train_ds.input_cfg = leave_out(
                read_input_cfg(config.data.train_ds.input_cfg, PLACE), stage.leave_out
            )
        if not last:
            config.output_dir = str(Path(cfg.output_dir) / STAGES / stage.name)
        if configs:
            config.model.init_from = str(main_job.nemo_path(configs[-1]))
            config.warm_start.steps = 0  # the first stage had it
        configs.append(config)
    return configs


def _check_ceilings(cfg: DictConfig, tasks: list[str]) -> None:
    if unknown := sorted(set(tasks) - set(cfg.evaluation.tasks)):
        raise ConfigError(
            "no such task", value=unknown, expected=f"among {', '.join(cfg.evaluation.tasks)}", knob="variant.ceilings"
        )
    if tasks and cfg.model.train_llm:
        raise ConfigError(
            "a trained LLM has no base to ask", expected="a frozen one", knob="variant.ceilings, or model.train_llm"
        )


def _answer_as_base(cfg: DictConfig, tasks: list[str]) -> None:
    """What the base LLM answers to the transcripts: the most that hearing could give."""
    path = main_job.nemo_path(cfg)
    folder = Path(cfg.output_dir) / "predictions" / CEILING
    main_job.answer_transcripts(cfg.evaluation, {name: cfg.evaluation.tasks[name] for name in tasks}, path, folder)


def _scores(configs: list[DictConfig], variant: VariantConfig) -> RunScores:
    *earlier, cfg = configs
    predictions = Path(cfg.output_dir) / "predictions"
    measures: dict[str, Measured] = {}
    for name, task in cfg.evaluation.tasks.items():
        score, options = score_name(name, task.metric), dict(task.get("metric_options") or {})
        group_by = task.get("group_by", "kind")
        for twin in ("", *(task.get("variants") or ())):
            rows = _predictions(predictions / f"{name}{'.' if twin else ''}{twin}.jsonl")
            measures |= named(name, score, measure(rows, task.metric, options, group_by), twin)
            if twin == TWIN:
                heard = _predictions(predictions / f"{name}.jsonl")
                found = measure_agreement(heard, rows, task.metric, options, group_by)
                measures |= named(name, f"{AGREEMENT}_{score}", found)
        has_base = name == TEXT_TASK and not cfg.model.train_llm
        for kind in [BASE] * has_base + [CEILING] * (name in variant.ceilings):
            found = measure(_predictions(predictions / kind / f"{name}.jsonl"), task.metric, options, group_by)
            measures |= named(name, f"{kind}_{score}", found)
    seconds = _seconds(cfg)
    for stage in earlier:
        seconds |= {f"{Path(stage.output_dir).name}.{part}": secs for part, secs in _seconds(stage).items()}
    history = Path(cfg.output_dir) / main_job.HISTORY_FILE
    steps, missed = measure_levels(history, variant.levels or {}, cfg.trainer.max_steps)
    about = {"bases": _bases(cfg)} | ({"never_reached": missed} if missed else {})
    return RunScores(variant.name, int(cfg.seed), variant.x, measures | steps, seconds, about, variant.line)


def _bases(cfg: DictConfig) -> dict[str, str]:
    """Digests of the LLM and the encoder that the training began with, where they are files."""
    places = {"llm": Path(cfg.model.pretrained_llm) / "model.safetensors", "encoder": Path(cfg.model.pretrained_asr)}
    return {part: file_sha256(path)[:16] for part, path in places.items() if path.is_file()}


def _seconds(cfg: DictConfig) -> dict[str, float]:
    """Of every part of a training, but not those that a run waited for its world."""
    return dict(main_job.Clock(Path(cfg.output_dir) / main_job.SECONDS_FILE).seconds)


def _predictions(path: Path) -> list[Row]:
    rows: list[Row] = []
    for row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        rows.append(row.data)
    return rows


def main(folder: str) -> None:
    directory = Path(folder)
    try:
        with alone(directory):
            cfg = OmegaConf.load(directory / JOB_FILE)
            assert isinstance(cfg, DictConfig)
            write_run(make_run(cfg), directory)
    except VTBlenderError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    stop_with_parent()
    main(sys.argv[1])
