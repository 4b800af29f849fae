"""Activation checkpointing changes neither loss, nor gradients, nor batch statistics."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tests.helpers.models import assistant, audio_part, llm_folder, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.models.generation import collate
from vtblender_nemo.modules.recompute import _GateAndUp, recompute_products

CHATS = [
    from_messages([user("Transcribe:", audio_part(1.3, 1)), assistant("one two")], id="a"),
    from_messages([user("hello"), assistant("good day"), user("and", audio_part(0.7, 2)), assistant("yes")], id="b"),
]
NO_DRAWS = {
    "modality_adapter": {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0},
    "spec_augment": {"freq_masks": 0, "time_masks": 0},
}


def trained(gemma: Path, canary: Path, llm: str = "none", encoder: str = "none") -> tuple[VTBlenderModel, float, int]:
    """After one backward pass in train mode: the model, its loss, and how often parts of the LLM and the encoder ran."""
    torch.manual_seed(0)
    perception = {**NO_DRAWS, "recompute": encoder}
    model = VTBlenderModel(model_config(gemma, canary, perception=perception, recompute=llm)).train()
    model.perception.preprocessor.featurizer.dither = 0.0
    runs: list[int] = []
    subsampling, layers = model.perception.encoder.pre_encode.conv, model.perception.encoder.layers
    for part in (model.llm.causal_lm.base_model.layers[0].mlp.act_fn, subsampling, layers[0].norm_feed_forward1):
        part.register_forward_hook(lambda *_: runs.append(1))
    torch.manual_seed(1)  # of the encoder's dropout, which recomputation has to draw again alike
    loss = model(collate(CHATS, model.chat_format, model.sampling_rate)).sum
    loss.backward()
    return model, float(loss.detach()), len(runs)


@pytest.mark.parametrize("degrees", [{"llm": "cheap"}, {"llm": "layers"}, {"encoder": "cheap"}, {"encoder": "layers"}])
def test_nothing_changes_but_that_parts_run_again(degrees: dict[str, str], gemma: Path, canary: Path) -> None:
    plain, loss, runs = trained(gemma, canary)
    again, loss_again, runs_again = trained(gemma, canary, **degrees)
    assert runs_again > runs
    assert loss_again == loss
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert gradients
    for name, parameter in again.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6)
    buffers = dict(plain.named_buffers())
    assert any(name.endswith("num_batches_tracked") for name in buffers)
    for name, buffer in again.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_an_mlp_lets_go_of_everything_after_the_backward_pass_and_may_be_passed_twice(
    gemma: Path, canary: Path
) -> None:
    model = VTBlenderModel(model_config(gemma, canary, recompute="cheap")).train()
    mlp = model.llm.causal_lm.base_model.layers[0].mlp
    loss = mlp(torch.randn(5, 32, requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in mlp.parameters() if p.grad is not None]
    loss.backward()
    assert first
    for once, twice in zip(first, [p.grad for p in mlp.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(2 * once, twice)
    gc.collect()
    assert not [kept for kept in gc.get_objects() if type(kept) is _GateAndUp]  # though the loss lives on


def test_products_of_an_mlp_are_not_kept(gemma: Path, canary: Path) -> None:
    """Counts what autograd keeps of one MLP: three tensors of its inner width are two less."""

    def kept(degree: str) -> int:
        model = VTBlenderModel(model_config(gemma, canary, recompute=degree)).train()
        mlp = model.llm.causal_lm.base_model.layers[0].mlp
        wide: list[int] = []

        def note(saved: torch.Tensor) -> torch.Tensor:
            wide.append(int(saved.shape[-1] == 48 and saved.shape[0] in (1, 5)))
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            mlp(torch.randn(1, 5, 32, requires_grad=True))
        return sum(wide)

    assert kept("none") - kept("cheap") == 2


def test_a_conformer_keeps_neither_activations_nor_weights_of_attention(gemma: Path, canary: Path) -> None:
    """By layer: the second products' inputs (2), and what softmax and mask make of scores."""

    def kept(degree: str) -> tuple[torch.nn.Module, int]:
        perception = {**NO_DRAWS, "recompute": degree}
        layer = VTBlenderModel(model_config(gemma, canary, perception=perception)).train().perception.encoder.layers[0]
        size: dict[int, int] = {}

        def note(saved: torch.Tensor) -> torch.Tensor:
            size[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        width = layer.norm_out.normalized_shape[0]
        x, positions = torch.randn(1, 64, width, requires_grad=True), torch.randn(1, 127, width)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            layer(x, att_mask=torch.zeros(1, 64, 64, dtype=torch.bool), pos_emb=positions)
        return layer, sum(size.values())

    layer, everything = kept("none")
    _, cheap = kept("cheap")
    inner, scores = (4 * numbers for numbers in (64 * layer.feed_forward1.d_ff, 64 * 64 * layer.self_attn.h))
    assert everything - cheap >= 2 * inner + scores


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3", "cohere", "granite"])
def test_every_familys_mlp_is_known(family: str, tmp_path: Path) -> None:
    causal_lm = load_llm(str(llm_folder(tmp_path, family)), llm_config(str(tmp_path / family)), "float32")
    assert recompute_products(causal_lm) == 2  # layers


def test_an_mlp_that_computes_otherwise_is_left_alone() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(4, 4) for _ in range(3))
            self.act_fn = torch.nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + x

    assert recompute_products(Odd()) == 0


def test_an_unknown_degree_is_refused(gemma: Path, canary: Path) -> None:
    with pytest.raises(ConfigError, match="'all'.*none, cheap, layers.*model.perception.recompute"):
        VTBlenderModel(model_config(gemma, canary, perception={"recompute": "all"}))
    with pytest.raises(ConfigError, match="'all'.*none, cheap, layers.*model.recompute"):
        VTBlenderModel(model_config(gemma, canary, recompute="all"))
