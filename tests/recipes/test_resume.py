"""A training that is stopped anywhere, in any way, ends as the one that was never stopped: weights, losses, scores, rows."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import DictConfig
from torch.utils._pytree import tree_map

from tests.helpers.kills import Killed, kill_at_random
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.stopping import Stopped
from vtblender_nemo.training.checkpoints import files
from vtblender_nemo.training.fit import build_data, build_model, fit, load_best

pytestmark = pytest.mark.slow

TRAINER = {"max_steps": 6, "val_check_interval": 3, "accumulate_grad_batches": 2}


class At(pl.Callback):
    """Does something at one moment of a training.

    Args:
        hook: the callback's method that is the moment.
        number: how often it was called before.
        act: what is done.
    """

    def __init__(self, hook: str, number: int, act: Any) -> None:
        self._left, self._act = number, act
        setattr(self, hook, self._called)

    def _called(self, *args: Any, **kwargs: Any) -> None:
        if self._left == 0:
            self._act()
        self._left -= 1


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def train(cfg: DictConfig, *callbacks: pl.Callback) -> VTBlenderModel:
    model = build_model(cfg)
    fit(cfg, model, build_data(cfg, model), callbacks=list(callbacks))
    return model


def history(cfg: DictConfig) -> list[str]:
    return (Path(cfg.output_dir) / "history.jsonl").read_text().splitlines()


def resume_folder(cfg: DictConfig) -> Path:
    return Path(cfg.output_dir) / "training" / "resume"


@pytest.fixture
def config(make_config: Any, tmp_path: Path) -> Any:
    def make(name: str, **checkpoints: Any) -> DictConfig:
        return make_config(output_dir=str(tmp_path / name), trainer=TRAINER, checkpoints=checkpoints)

    return make


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Kept by the first test that makes it: the run that was never stopped."""
    return {}


@pytest.fixture
def never_stopped(config: Any, whole: dict[str, Any]) -> dict[str, Any]:
    if not whole:
        cfg = config("whole")
        whole.update(weights=train(cfg).state_dict(), history=history(cfg))
    return whole


def assert_same(cfg: DictConfig, model: VTBlenderModel, never_stopped: dict[str, Any]) -> None:
    for name, weight in never_stopped["weights"].items():
        assert torch.equal(weight, model.state_dict()[name]), name
    assert history(cfg) == never_stopped["history"]


@pytest.mark.parametrize(
    ("every_n_steps", "moment"),
    [
        (1, At("on_before_optimizer_step", 3, kill)),
        (2, At("on_train_batch_start", 7, kill)),  # between the two micro-batches of a step
        (None, At("on_validation_batch_start", 0, kill)),
        (None, At("on_validation_end", 0, kill)),
        (1, At("on_validation_batch_start", 1, kill)),  # in the last one, after the last step
        (1, At("on_save_checkpoint", 2, kill)),
    ],
    ids=["in_a_step", "between_micro_batches", "in_validation", "at_its_end", "in_the_last_validation", "while_saving"],
)
def test_killed(config: Any, never_stopped: dict[str, Any], every_n_steps: int | None, moment: At) -> None:
    cfg = config("halves", every_n_steps=every_n_steps)
    with pytest.raises(Killed):
        train(cfg, moment)
    assert_same(cfg, train(cfg), never_stopped)


def test_killed_by_the_machine_at_random_moments(config: Any, never_stopped: dict[str, Any]) -> None:
    cfg = config("killed", every_n_steps=1)
    weights = Path(cfg.output_dir) / "weights.pt"
    kills = kill_at_random(lambda: torch.save(train(cfg).state_dict(), weights), 3, (0.7, 2.5), seed=4)
    assert kills == 3, "slower than it was: the run ended before it was killed"
    kept = torch.load(weights, weights_only=True)
    for name, weight in never_stopped["weights"].items():
        assert torch.equal(weight, kept[name]), name
    assert history(cfg) == never_stopped["history"]


@pytest.mark.parametrize("batch", [1, 5, 6])
def test_a_signal_ends_the_step_and_saves(config: Any, never_stopped: dict[str, Any], batch: int) -> None:
    """Before a step's second micro-batch, before a validation, and before the first micro-batch of a step."""
    cfg, before = config("halves", every_secs=1e9), signal.getsignal(signal.SIGTERM)
    step = batch // 2 + 1
    with pytest.raises(Stopped, match=rf"stopped by SIGTERM after step {step} of 6; .*step=0*{step}\.ckpt holds it"):
        train(cfg, At("on_train_batch_start", batch, terminate))
    assert signal.getsignal(signal.SIGTERM) == before
    assert_same(cfg, train(cfg), never_stopped)


def test_after_its_time_a_process_stops(config: Any, never_stopped: dict[str, Any]) -> None:
    cfg = config("slices", stop_after_secs=0)
    stops = 0
    while True:
        try:
            model = train(cfg)
        except Stopped:
            stops += 1
        else:
            break
    assert stops == 5, "one step a slice"
    assert_same(cfg, model, never_stopped)


def test_the_checkpoint_before_a_damaged_one_is_used(
    config: Any, never_stopped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("halves", every_n_steps=1)
    with pytest.raises(Killed):
        train(cfg, At("on_before_optimizer_step", 5, kill))
    newest = files.checkpoints_in(resume_folder(cfg))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        model = train(cfg)
    assert f"{newest}: checkpoint is damaged" in caplog.text
    assert newest.with_name(newest.name + ".damaged").exists()
    assert_same(cfg, model, never_stopped)
    for path in files.checkpoints_in(resume_folder(cfg)):
        path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="no checkpoint of the run is whole"):
        train(cfg)


class FullDisk:
    """No checkpoint of some steps can be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
        self._write, self._steps = files.write, steps
        monkeypatch.setattr(files, "write", self)

    def __call__(self, checkpoint: dict[str, Any], path: Path) -> None:
        if checkpoint["global_step"] in self._steps:
            raise OSError(28, "No space left on device")
        self._write(checkpoint, path)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_stops_training_and_leaves_what_was_there(
    config: Any, never_stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    cfg = config("full", every_n_steps=1, asynchronous=asynchronous)
    with monkeypatch.context() as patch:
        FullDisk(patch, {4, 5})
        with pytest.raises(ModelFileError, match=r"No space left.*checkpoints\.on_failure=go_on"):
            train(cfg)
    whole = files.checkpoints_in(resume_folder(cfg))
    assert [path.name for path in whole] == ["step=00000003.ckpt", "step=00000003-validated.ckpt"]
    assert_same(cfg, train(cfg), never_stopped)


def test_a_full_disk_need_not_stop_training(
    config: Any, never_stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("full", every_n_steps=1, on_failure="go_on")
    FullDisk(monkeypatch, {2, 3})
    assert_same(cfg, train(cfg), never_stopped)
    assert "No space left on device" in caplog.text
    assert len(files.checkpoints_in(resume_folder(cfg))) == 2


def test_what_a_thread_writes_is_the_state_of_its_step(config: Any) -> None:
    states = []
    for asynchronous in (False, True):
        cfg = config(f"asynchronous={asynchronous}", every_n_steps=1, keep=9, asynchronous=asynchronous)
        train(cfg)
        states.append([files.read(path) for path in files.checkpoints_in(resume_folder(cfg))])
    assert len(states[0]) == len(states[1]) == 7, (
        "six steps, the last of them only once validated, and the first validation"
    )
    for at_once, later in zip(*states, strict=True):
        assert at_once["global_step"] == later["global_step"]
        for name, weight in at_once["state_dict"].items():
            assert torch.equal(weight, later["state_dict"][name]), name
        for part, same in zip(at_once["optimizer_states"], later["optimizer_states"], strict=True):
            assert tree_map(as_list, part) == tree_map(as_list, same)


def as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_the_best_weights_are_put_back(config: Any) -> None:
    cfg = config("best")
    model = build_model(cfg)
    trainer = fit(cfg, model, build_data(cfg, model))
    best = Path(trainer.checkpoint_callbacks[0].best_model_path)
    kept = files.read(best)["state_dict"]
    with torch.no_grad():
        model.perception.proj.bias.add_(1)
    load_best(trainer, model)
    for name, weight in kept.items():
        assert torch.equal(model.state_dict()[name], weight), name
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="damaged"):
        load_best(trainer, model)


def test_a_run_of_an_older_version_does_not_begin_anew(config: Any) -> None:
    cfg = config("older")
    older = Path(cfg.output_dir) / "training" / "checkpoints" / "step=3-last.ckpt"
    older.parent.mkdir(parents=True)
    older.touch()
    with pytest.raises(ConfigError, match=r"step=3-last.ckpt: the run was begun by an older version.*output_dir"):
        train(cfg)


def test_the_hosts_time_limit_is_refused(config: Any) -> None:
    cfg = config("limit")
    cfg.exp_manager.max_time_per_run = "00:00:01:00"
    with pytest.raises(ConfigError, match="checkpoints.stop_after_secs"):
        train(cfg)


def test_a_value_out_of_range_names_its_key(config: Any) -> None:
    for key, value in (("keep", 0), ("on_failure", "ask"), ("stop_signals", ["SIGKILL"]), ("every_secs", -1)):
        with pytest.raises(ConfigError, match=rf"checkpoints\.{key}"):
            train(config("wrong", **{key: value}))


def test_history_rows_count_steps(config: Any, never_stopped: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in never_stopped["history"]]
    assert [row["step"] for row in rows if row["name"] == "train_loss"] == [0, 1, 2, 3, 4, 5]
