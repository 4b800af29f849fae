"""Where hidden states are not read, the last layer's MLP does not compute, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.models import llm_folder
from vtblender_nemo.backbones.last_layer import LastLayer
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM

LENS = [5, 9, 1, 4]
WANTED = torch.tensor([0, 3, 4, 13, 18])
IDS = torch.randint(7, 200, (sum(LENS),), generator=torch.Generator().manual_seed(0))


def load(folder: Path, **settings: str) -> TransformersLLM:
    causal_lm = load_llm(str(folder), llm_config(str(folder)), "float32")
    lora = {"r": 2, "target_modules": ["gate_proj", "down_proj", "q_proj", "v_proj"]}
    llm = TransformersLLM(causal_lm, lora=lora, **settings).train()
    torch.manual_seed(0)
    for name, weight in llm.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return llm


def rows_of_each_mlp(llm: TransformersLLM) -> list[int]:
    """How many rows the MLPs compute from now on: grows as they run."""
    found: list[int] = []
    for layer in llm.causal_lm.base_model.layers:
        layer.mlp.act_fn.register_forward_hook(lambda _, __, out: found.append(out.shape[:-1].numel()))
    return found


@pytest.mark.parametrize("recompute", ["none", "cheap", "layers"])
@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3", "cohere", "granite"])
def test_wanted_rows_and_all_gradients_are_those_of_the_whole(family: str, recompute: str, tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path, family), recompute=recompute)

    def values_and_gradients(wanted: torch.Tensor | None) -> list[torch.Tensor]:
        embeds = llm.embed(IDS).detach().requires_grad_()
        hidden = llm.hidden_packed(embeds, LENS, wanted)
        rows = hidden[WANTED] if wanted is None else hidden
        llm.zero_grad()
        rows.pow(3).sum().backward()
        assert embeds.grad is not None
        return [rows.detach(), embeds.grad, *(p.grad.clone() for p in llm.parameters() if p.grad is not None)]

    whole = values_and_gradients(None)
    rows = rows_of_each_mlp(llm)
    found = values_and_gradients(WANTED)
    assert rows[:2] == [len(IDS), len(WANTED)]
    assert len(found) > 5
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_padded_rows_are_counted_over_the_whole_batch(tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path)).eval()
    embeds, mask = llm.embed(IDS[:18].view(3, 6)), torch.ones(3, 6, dtype=torch.bool)
    wanted = torch.tensor([5, 6, 16])
    torch.testing.assert_close(llm.hidden(embeds, mask, wanted=wanted), llm.hidden(embeds, mask).flatten(0, 1)[wanted])


def test_a_prompt_is_read_at_its_end_alone(tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path)).eval()
    embeds = llm.embed(IDS[:18].view(3, 6))
    rows = rows_of_each_mlp(llm)
    for mask in (torch.ones(3, 6).bool(), torch.arange(6) >= torch.tensor([[0], [2], [5]])):
        rows.clear()
        llm.generate(embeds, mask, max_new_tokens=1, stop_ids=[1])
        assert rows == [int(mask.sum()), 3]


def test_no_wanted_row_leaves_a_path_for_gradients(tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path))
    embeds = llm.embed(IDS).detach().requires_grad_()
    llm.hidden_packed(embeds, LENS, torch.empty(0, dtype=torch.int64)).sum().backward()
    assert embeds.grad is not None
    assert not embeds.grad.any()


def test_an_mlp_that_mixes_positions_is_left_alone(tmp_path: Path) -> None:
    folder = llm_folder(tmp_path)
    causal_lm = load_llm(str(folder), llm_config(str(folder)), "float32")
    mlp = causal_lm.base_model.layers[-1].mlp
    plain = mlp.forward
    mlp.forward = lambda x: 30 * plain(x).cumsum(-2)
    mixing = mlp.forward
    assert not LastLayer(causal_lm).found
    assert mlp.forward is mixing
