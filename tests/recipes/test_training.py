"""Whole trainings with small models: what changes, what stays, and that a stop leaves no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from tests.helpers.kills import KillAt, Killed
from tests.helpers.models import audio_part, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.experiments.main_job import Clock
from vtblender_nemo.experiments.main_job import train as train_to_file
from vtblender_nemo.training.fit import build_data, build_model, fit

pytestmark = pytest.mark.slow


def train(cfg: DictConfig) -> tuple[VTBlenderModel, dict[str, torch.Tensor]]:
    model = build_model(cfg)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fit(cfg, model, build_data(cfg, model))
    return model, before


def test_the_base_stays_bit_for_bit_and_every_other_part_learns(make_config: Any) -> None:
    cfg = make_config()
    model, before = train(cfg)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    base = {f"speech_llm.llm.{name}" for name in model.llm.base_weights()}
    assert base
    assert not base & changed
    for part, named in model.trainable_parts().items():
        assert any(f"speech_llm.{name}" in changed for name, _ in named), part
    assert set(model.trained_parameters()) == {"encoder", "modality_adapter", "projection", "lora"}
    statistics = {name for name in changed - trained if "running_" not in name and "num_batches" not in name}
    assert not statistics
    rows = [json.loads(line) for line in (Path(cfg.output_dir) / "history.jsonl").read_text().splitlines()]
    names = {row["name"] for row in rows}
    assert {"train_loss/text", "train_loss/asr", "train_loss/speech_qa", "train_loss/mixed_modal"} <= names
    assert {"val_loss", "val/asr.wer", "val_score"} <= names


def test_checkpoints_leave_the_frozen_llm_out(make_config: Any) -> None:
    cfg = make_config()
    model, _ = train(cfg)
    assert list(Path(cfg.output_dir).glob("training/checkpoints/*.ckpt"))
    for path in Path(cfg.output_dir).glob("training/checkpoints/*.ckpt"):
        kept = torch.load(path, weights_only=False)["state_dict"]
        assert kept.keys() == model.state_dict().keys() - {f"speech_llm.llm.{n}" for n in model.llm.base_weights()}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_as_the_run_never_stopped(make_config: Any, tmp_path: Path, workers: int) -> None:
    """Weights bit for bit, with dropout, SpecAugment and wordings drawn anew at every step."""
    data = {"train_ds": {"num_workers": workers}}
    trainer = {"max_steps": 6, "val_check_interval": 3}
    whole, _ = train(make_config(output_dir=str(tmp_path / "whole"), data=data, trainer=trainer))
    cfg = make_config(output_dir=str(tmp_path / "halves"), data=data, trainer=trainer)
    first = build_model(cfg)
    with pytest.raises(Killed):
        fit(cfg, first, build_data(cfg, first), callbacks=[KillAt(4)])  # a step later than its checkpoint
    second, _ = train(cfg)
    assert second.trainer.global_step == 6
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_loss_is_normalised_by_the_targets_of_the_whole_step(make_config: Any, tmp_path: Path) -> None:
    """Two micro-batches accumulated give the step of both in one: the same rows, dropout and SpecAugment off."""
    steps = []
    for size, accumulate in ((8, 1), (4, 2)):
        cfg = make_config(
            output_dir=str(tmp_path / str(size)),
            data={"train_ds": {"batch_size": size, "num_buckets": 1}},
            trainer={
                "max_steps": 1,
                "accumulate_grad_batches": accumulate,
                "val_check_interval": 1,
                "limit_val_batches": 0,
            },
        )
        cfg.trainer.gradient_clip_val = None  # clipping would hide a wrong scale
        cfg.model.optim.sched.warmup_steps = 0
        model = build_model(cfg).eval()  # no dropout, and no statistics of a batch, which would differ between the two
        grads = Gradients()
        fit(cfg, model, build_data(cfg, model), callbacks=[grads])
        steps.append(grads.kept)
    whole, halves = steps
    assert whole.keys() == halves.keys()
    assert whole
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, rtol=1e-4, atol=1e-6)


def test_another_configuration_does_not_continue_a_run(make_config: Any) -> None:
    cfg = make_config()
    train(cfg)
    cfg.model.lora.r = 8
    with pytest.raises(ConfigError, match=r"another model.lora.r; found 8; expected 4"):
        fit(cfg, build_model(cfg), None)  # type: ignore[arg-type]


def test_models_that_cannot_be_loaded_do_not_bind_the_folder(make_config: Any, tmp_path: Path) -> None:
    cfg = make_config()
    cfg.model.pretrained_asr = str(tmp_path / "missing.nemo")
    with pytest.raises(ModelFileError):
        train_to_file(cfg, Clock(tmp_path / "seconds.json"))
    assert not (Path(cfg.output_dir) / "config.yaml").exists()


def test_full_fine_tuning_trains_the_llm(make_config: Any, tmp_path: Path) -> None:
    model, before = train(make_config(model={"train_llm": True, "lora": None}))
    name = "speech_llm.llm.model.model.embed_tokens.weight"
    assert "llm" in model.trained_parameters()
    assert not torch.equal(model.state_dict()[name], before[name])
    model.save_to(tmp_path / "x.nemo")
    restored = VTBlenderModel.restore_from(tmp_path / "x.nemo")
    chat = [[user("hear", audio_part(0.7))]]
    assert restored.generate(chat, 6) == model.generate(chat, 6)


class Gradients(pl.Callback):
    """Keeps the gradients that the optimiser is given."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.kept = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("soft_tokens", [False, True])
def test_a_kept_warm_start_is_as_good_as_a_new_one(make_config: Any, tmp_path: Path, soft_tokens: bool) -> None:
    """What follows a warm start is bit for bit the same, whether it was just made or taken over."""
    perception = {"soft_tokens": soft_tokens, "separator": not soft_tokens}
    weights = []
    for _ in range(2):
        cfg = make_config(output_dir=str(tmp_path / "run"), trainer={"max_steps": 2}, model={"perception": perception})
        cfg.warm_start = {**cfg.warm_start, "steps": 2, "input_cfg": [cfg.data.train_ds.input_cfg[1]]}
        cfg.warm_start.optim.sched.warmup_steps = 1
        path = train_to_file(cfg, Clock(tmp_path / "seconds.json"))
        weights.append(VTBlenderModel.restore_from(path).state_dict())
        path.unlink()
        # not its parent, where the host logs errors of later tests
        shutil.rmtree(tmp_path / "run" / "training" / "resume")
    kept = load_file(tmp_path / "run" / "warm_start.safetensors")
    assert ("token_ctc.blank" in kept) == soft_tokens
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


def test_runs_share_the_warm_start_that_they_would_all_make(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run takes from another is what it would have made itself."""
    kept = tmp_path / "kept"
    text, recognition, *_ = make_config().data.train_ds.input_cfg

    def warm(keep_in: Path | None, **changed: Any) -> Path:
        cfg = make_config(**{"trainer": {"max_steps": 2}, "output_dir": str(tmp_path / "run"), **changed})
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        cfg.warm_start = {**cfg.warm_start, "steps": 2, "input_cfg": [recognition]}
        cfg.warm_start.optim.sched.warmup_steps = 1
        cfg.warm_start.keep_in = None if keep_in is None else str(keep_in)
        return train_to_file(cfg, Clock(tmp_path / "seconds.json"))

    warm(kept)
    (made,) = kept.iterdir()
    text_alone = {"train_ds": {"input_cfg": [text]}}
    alone = VTBlenderModel.restore_from(warm(None, data=text_alone)).state_dict()
    monkeypatch.setattr("vtblender_nemo.training.warm_start._TiedCTC", None)  # none is trained from here on
    shared = VTBlenderModel.restore_from(warm(kept, data=text_alone)).state_dict()
    assert list(kept.iterdir()) == [made]
    for name, weight in alone.items():
        assert torch.equal(weight, shared[name]), name
    for section in ({"seed": 2}, {"model": {"perception": {"max_padding": 0.2}}}, {"data": {"train_ds": {"seed": 7}}}):
        with pytest.raises(TypeError, match="not callable"):
            warm(kept, **section)


def test_without_validation_the_last_step_is_kept_and_best_is_refused(make_config: Any) -> None:
    cfg = make_config(data={"validation_ds": None})
    cfg.data.validation_ds = None
    model, _ = train(cfg)
    assert not list(Path(cfg.output_dir).glob("training/checkpoints/*.ckpt"))
    assert max(path.name for path in Path(cfg.output_dir).glob("training/resume/*.ckpt")).startswith("step=00000004")
    cfg.save_checkpoint = "best"
    with pytest.raises(ConfigError, match="no checkpoint is the best|another save_checkpoint"):
        fit(cfg, model, build_data(cfg, model))


def test_broken_validation_audio_does_not_stop_training(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    row = {"audio_filepath": str(tmp_path / "broken.wav"), "duration": 1.0, "text": "x"}
    (tmp_path / "broken.jsonl").write_text(json.dumps(row) + "\n")
    cfg = make_config()
    source = {**cfg.data.validation_ds.sets.asr.input_cfg[0], "manifest_filepath": str(tmp_path / "broken.jsonl")}
    cfg.data.validation_ds.sets = {"asr": cfg.data.validation_ds.sets.asr, "broken": {"input_cfg": [source]}}
    model, _ = train(cfg)
    assert model.trainer.global_step == 4
