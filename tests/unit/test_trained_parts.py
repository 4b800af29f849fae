"""What is trained, by configuration: the adapter alone as in MTBI, or all that VoiceTextBlender trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.helpers.imitation import batch_of, imitated
from tests.helpers.models import assistant, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.training.optim import build_optimizer

CONF = Path(__file__).parents[2] / "conf"
HEARD = [imitated("a", 0.7, "good morning", "greeting"), imitated("b", 1.1, "good night", "farewell")]
READ = [from_messages([user("hello"), assistant("good day")], id="text")]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name, overrides=list(overrides))


@pytest.fixture
def adapter_only(gemma: Path, canary: Path) -> VTBlenderModel:
    trained = OmegaConf.load(CONF / "trained" / "adapter.yaml")
    config = OmegaConf.merge(model_config(gemma, canary, imitation={"kl_weight": 1.0}), trained)
    return VTBlenderModel(config).train()


def test_the_choices() -> None:
    mtbi, joint, base = composed("vtb_mtbi"), composed("vtb_mtbi", "trained=joint"), composed("vtb_blend")
    assert mtbi.model.lora is None
    assert mtbi.model.perception.freeze_encoder
    assert joint.model == base.model
    assert composed("vtb_3b", "+trained=adapter").model.lora is None
    untrained = {"encoder": None, "lora": None}
    given = {
        "lora": None,
        "perception": {"freeze_encoder": True},
        "optim": {"lr_scale": untrained, "muon_lr": untrained},
    }
    assert mtbi.model == OmegaConf.merge(OmegaConf.to_container(base), {"model": given}).model


def test_rates_of_parts_that_are_not_trained_do_not_count(adapter_only: VTBlenderModel) -> None:
    optim = {"lr": 0.1, "betas": [0.9, 0.98], "weight_decay": 0.0}
    scales = {"lr_scale": {"projection": 0.5, "encoder": None}, "muon_lr": {"encoder": None, "modality_adapter": 0.01}}
    optimizer = build_optimizer(adapter_only.trainable_parts(), OmegaConf.create({**optim, **scales}))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"modality_adapter.muon": 0.01, "modality_adapter": 0.1, "projection": 0.05}
    with pytest.raises(ConfigError, match="lr_scale names parts that are not trained"):
        build_optimizer(adapter_only.trainable_parts(), OmegaConf.create({**optim, "lr_scale": {"encoder": 0.5}}))


def test_adapter_and_projection_alone_get_gradients(adapter_only: VTBlenderModel) -> None:
    assert set(adapter_only.trained_parameters()) == {"modality_adapter", "projection"}
    adapter_only(batch_of(adapter_only, HEARD)).sum.backward()
    without = [name for name, p in adapter_only.named_parameters() if p.grad is None]
    assert all(name.startswith(("speech_llm.llm.", "speech_llm.perception.encoder.")) for name in without)
    trained = [p for named in adapter_only.trainable_parts().values() for _, p in named]
    assert all(p.grad is not None for p in trained)


def test_nothing_of_a_frozen_encoder_is_kept_for_a_backward_pass(adapter_only: VTBlenderModel) -> None:
    outputs: list[torch.Tensor] = []
    for layer in adapter_only.perception.encoder.layers:
        layer.register_forward_hook(lambda module, given, output: outputs.append(output))
    adapter_only(batch_of(adapter_only, HEARD)).sum.backward()
    assert outputs
    assert not any(output.requires_grad for output in outputs)


def test_a_frozen_encoder_keeps_its_batch_statistics_and_has_no_dropout(adapter_only: VTBlenderModel) -> None:
    encoder, adapter = adapter_only.perception.encoder, adapter_only.perception.modality_adapter
    before = {name: buffer.clone() for name, buffer in adapter_only.perception.named_buffers()}
    adapter_only(batch_of(adapter_only, HEARD)).sum.backward()
    changed = {
        name for name, buffer in adapter_only.perception.named_buffers() if not torch.equal(buffer, before[name])
    }
    assert changed
    assert all(name.startswith("modality_adapter.") for name in changed)
    assert not any(module.training for module in encoder.modules())
    drawing = [module for module in adapter.modules() if isinstance(module, torch.nn.Dropout)]
    assert drawing
    assert all(module.training for module in drawing)


def test_text_trains_nothing_and_stops_nothing(adapter_only: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance a micro-batch may hold no speech; its loss counts, and its gradient is 0."""
    monkeypatch.setattr(adapter_only, "log", lambda *_, **__: None)
    loss = adapter_only.training_step(batch_of(adapter_only, READ), 0)["loss"]
    assert loss > 1
    loss.backward()
    gradients = [p.grad for p in adapter_only.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_restored_model_is_as_frozen_as_it_was(adapter_only: VTBlenderModel, tmp_path: Path) -> None:
    adapter_only.save_to(tmp_path / "x.nemo")
    restored = VTBlenderModel.restore_from(tmp_path / "x.nemo").train()
    assert restored.trained_parameters() == adapter_only.trained_parameters()
    assert restored.speech_llm.imitation == adapter_only.speech_llm.imitation
    assert not restored.perception.encoder.training
