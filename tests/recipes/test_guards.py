"""Steps that would do harm are left out, told, and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import ConfigError, TrainingError
from vtblender_nemo.training import guards
from vtblender_nemo.training.fit import build_data, build_model, fit
from vtblender_nemo.training.guards import GuardConfig, StepGuard

pytestmark = pytest.mark.slow


class Poison(pl.Callback):
    """Makes the audio of some batches no numbers, and keeps what training has changed before and after them."""

    def __init__(self, *batches: int) -> None:
        self._batches = batches
        self.ids: dict[int, list[str]] = {}
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.ids[batch_idx] = batch.ids
        if batch_idx in self._batches:
            batch.audios[:] = float("nan")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def run(cfg: Any, poison: Poison) -> None:
    model = build_model(cfg)
    fit(cfg, model, build_data(cfg, model), callbacks=[poison])


def bad_steps(cfg: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(cfg.output_dir) / "bad_steps.jsonl").read_text().splitlines()]


def test_a_step_that_is_no_number_changes_nothing(make_config: Any) -> None:
    cfg, poison = make_config(trainer={"max_steps": 4, "val_check_interval": 4}), Poison(2)
    run(cfg, poison)
    before, after, later = poison.states[1:4]
    for name, value in before.items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, after[name]), name
    assert not all(torch.equal(value, later[name]) for name, value in before.items())
    assert all(value.isfinite().all() for value in later.values())
    (row,) = bad_steps(cfg)
    assert (row["step"], row["problem"]) == (2, "loss")
    assert [id for _, id in row["rows"]] == poison.ids[2]


def test_too_many_in_a_row_end_the_training(make_config: Any) -> None:
    cfg = make_config(trainer={"max_steps": 9, "val_check_interval": 9}, guards={"max_bad_steps": 2})
    poison = Poison(1, 3, 4, 5)
    with pytest.raises(TrainingError, match=r"3 steps in a row had a loss that is no number.*guards.max_bad_steps"):
        run(cfg, poison)
    assert [row["step"] for row in bad_steps(cfg)] == [1, 3, 4, 5]


@pytest.mark.parametrize("skip", [False, True])
def test_spikes_are_told_and_left_out_if_asked(make_config: Any, monkeypatch: pytest.MonkeyPatch, skip: bool) -> None:
    monkeypatch.setattr(guards, "MIN_WINDOW", 2)
    cfg = make_config(
        trainer={"max_steps": 4, "val_check_interval": 4}, guards={"spike_sigmas": 8, "skip_spikes": skip}
    )
    model, poison = build_model(cfg), Poison()
    forward, calls = model.speech_llm.forward, iter(range(4))

    def spiked(batch: Batch) -> Any:
        loss = forward(batch)
        loss.values = loss.values * (9.0 if next(calls) == 2 else 1.0)
        return loss

    monkeypatch.setattr(model.speech_llm, "forward", spiked)
    fit(cfg, model, build_data(cfg, model), callbacks=[poison])
    assert [(row["step"], row["problem"]) for row in bad_steps(cfg)] == [(2, "spike")]
    before, after = poison.states[1:3]
    name = "speech_llm.perception.proj.bias"
    assert torch.equal(before[name], after[name]) == skip


def test_what_counts_as_a_spike() -> None:
    guard = StepGuard(GuardConfig(spike_sigmas=3), Path("unused"))
    guard.load_state_dict({"bad_in_a_row": 0, "losses": [1.0, 3.0] * 10})  # mean 2, deviation 1
    assert not guard._is_spike(4.99)
    assert guard._is_spike(5.01)
    assert not StepGuard(GuardConfig(spike_sigmas=None), Path("unused"))._is_spike(1e9)


def test_values_out_of_range_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"guards\.spike_sigmas"):
        StepGuard(GuardConfig(spike_sigmas=0.5), Path("unused"))
