"""Every way to an answer leads to the same tokens, whatever is padded, packed, merged, cached or ends early."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from tests.helpers.models import FAMILIES, llm_folder
from vtblender_nemo.backbones.decoding import Chooser, decode, prefill
from vtblender_nemo.backbones.kv_cache import GrowingCache, GrowingLayer
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError

LORA = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}
LENS = (3, 9, 6, 1)
NEW = 12


def load(folder: Path, **kwargs: Any) -> TransformersLLM:
    """An LLM whose LoRA is not zero."""
    llm = TransformersLLM(load_llm(str(folder), llm_config(str(folder)), "float32"), **{"lora": LORA, **kwargs}).eval()
    generator = torch.Generator().manual_seed(5)
    for name, weight in llm.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return llm


def windowed(family: str) -> dict[str, int]:
    """Windows shorter than the prompts, for the families that have them."""
    return {"sliding_window": 4} if family in ("gemma2", "gemma3") else {}


def prompts(llm: TransformersLLM) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (4, 9, H) padded on the left, and their mask."""
    ids = torch.randint(7, 200, (len(LENS), max(LENS)), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(max(LENS)) >= max(LENS) - torch.tensor(LENS)[:, None]
    with torch.no_grad():
        return llm.embed(ids) * mask[:, :, None], mask


@torch.no_grad()
def recomputed(llm: TransformersLLM, embeds: torch.Tensor, stop_ids: list[int]) -> list[int]:
    """A greedy answer to one prompt (T, H): the whole conversation anew for every token, without cache or padding."""
    ids: list[int] = []
    for _ in range(NEW):
        rows = torch.cat([embeds, llm.embed(torch.tensor(ids, dtype=torch.long))])[None]
        ids.append(int(llm.logits(llm.hidden(rows, torch.ones(rows.shape[:2]).bool())[0, -1:]).argmax()))
        if ids[-1] in stop_ids:
            break
    return ids


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_answers_equal_each_alone_without_cache(family: str, packing: bool, tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path, family, **windowed(family)), packing=packing)
    embeds, mask = prompts(llm)
    alone = [recomputed(llm, row[kept], [1]) for row, kept in zip(embeds, mask, strict=True)]
    found = llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=[1])
    assert found.tolist() == [ids + [1] * (found.shape[1] - len(ids)) for ids in alone]


def test_rows_that_end_leave_the_batch_and_change_nothing(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    free = [recomputed(llm, row[kept], []) for row, kept in zip(embeds, mask, strict=True)]
    stops = sorted({free[0][1], free[1][4], free[2][0]})
    alone = [recomputed(llm, row[kept], stops) for row, kept in zip(embeds, mask, strict=True)]
    lens = sorted(map(len, alone))
    assert lens[1] < lens[-1], "some rows have to end before others"
    widths: list[int] = []
    hook = llm.causal_lm.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
    )
    found = llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=stops)
    hook.remove()
    assert found.tolist() == [ids + [stops[0]] * (found.shape[1] - len(ids)) for ids in alone]
    assert min(widths[1:]) < len(LENS)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 8},
        {"do_sample": True},
        {"do_sample": True, "temperature": 1.7, "top_k": 0, "top_p": 0.8},
        {"do_sample": True, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.3, "min_new_tokens": 5},
    ],
    ids=str,
)
def test_tokens_equal_those_of_transformers(gemma: Path, sampling: dict[str, Any]) -> None:
    """Without padding: transformers takes its length off the answers that `repetition_penalty` sees, so rows depend on others."""
    llm = load(gemma)
    embeds, _ = prompts(llm)
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
    stops = [1, *range(100, 140)]  # so many that answers end
    torch.manual_seed(3)
    found = llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=stops, **sampling)
    torch.manual_seed(3)
    config = GenerationConfig(
        max_new_tokens=NEW, eos_token_id=stops, pad_token_id=1, use_cache=True, **{"do_sample": False, **sampling}
    )
    wanted = llm.causal_lm.generate(inputs_embeds=embeds, attention_mask=mask.long(), generation_config=config)
    assert found.tolist() == wanted.tolist()


def test_beams_are_transformers_own(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    assert llm.generate(embeds, mask, max_new_tokens=4, stop_ids=[1], num_beams=3).shape[0] == len(LENS)


def own_calls(kind: type[nn.Module], layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each time that a layer computes by its class's own forward."""
    own, calls = kind.forward, list[None]()

    def forward(self: nn.Module, x: torch.Tensor) -> Any:
        calls.extend([None] if self is layer else [])
        return own(self, x)

    monkeypatch.setattr(kind, "forward", forward)
    return calls


def test_copies_of_weights_leave_the_model_as_it_was(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(gemma)
    before = {name: weight.clone() for name, weight in llm.state_dict().items()}
    objects = {name: id(weight) for name, weight in llm.named_parameters()}
    embeds, mask = prompts(llm)
    layers = (llm.causal_lm.base_model.layers[0].self_attn.q_proj, llm.causal_lm.get_output_embeddings())
    calls = [own_calls(type(layer), layer, monkeypatch) for layer in layers]
    with torch.no_grad():
        plain = llm.logits(llm.hidden(embeds, mask)[mask])
        with llm.decoding_weights():
            merged = llm.logits(llm.hidden(embeds, mask)[mask])
        assert list(map(len, calls)) == [1, 1]
        torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-4)
        with pytest.raises(ZeroDivisionError), llm.decoding_weights():
            1 / 0  # noqa: B018
        assert torch.equal(llm.logits(llm.hidden(embeds, mask)[mask]), plain)
    assert list(map(len, calls)) == [2, 2]
    assert {name: id(weight) for name, weight in llm.named_parameters()} == objects
    assert all(torch.equal(weight, before[name]) for name, weight in llm.state_dict().items())


@pytest.mark.parametrize("change", ["lora", "lora through data", "base", "switched off"])
def test_a_merged_weight_is_never_stale(gemma: Path, change: str) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    llm.generate(embeds, mask, max_new_tokens=2, stop_ids=[1])
    layer = llm.causal_lm.base_model.layers[0].mlp.up_proj
    with torch.no_grad():
        if change == "lora":
            layer.lora_B["default"].weight.add_(0.5)
        elif change == "lora through data":
            layer.lora_A["default"].weight.data.mul_(-3)
        elif change == "base":
            layer.base_layer.weight.mul_(-1)
    if change == "switched off":
        with llm.without_lora():
            wanted = recomputed(llm, embeds[1], [1])
            found = llm.generate(embeds[1:2], mask[1:2], max_new_tokens=NEW, stop_ids=[1])
    else:
        wanted = recomputed(llm, embeds[1], [1])
        found = llm.generate(embeds[1:2], mask[1:2], max_new_tokens=NEW, stop_ids=[1])
    assert found[0].tolist() == wanted


def test_copies_of_weights_are_freed_by_training(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    llm.generate(embeds, mask, max_new_tokens=1, stop_ids=[1])
    assert llm.decoding_weights.held >= 12
    assert copy.deepcopy(llm).decoding_weights.held == 0
    llm.train()
    assert llm.decoding_weights.held == 0


def test_bfloat16_is_not_copied(gemma: Path) -> None:
    llm = TransformersLLM(load_llm(str(gemma), llm_config(str(gemma)), "bfloat16"), lora=LORA).eval()
    embeds, mask = prompts(llm)
    llm.generate(embeds, mask, max_new_tokens=1, stop_ids=[1])
    assert llm.decoding_weights.held == 0


def test_nothing_is_copied_where_memory_is_short(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    wanted = llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=[1]).tolist()
    llm.decoding_weights.drop()
    monkeypatch.setattr("vtblender_nemo.backbones.decoding_weights._free_memory", lambda device: 1000)
    assert llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=[1]).tolist() == wanted
    assert llm.decoding_weights.held == 0


@pytest.mark.parametrize("lora", [LORA, None])
def test_without_packed_weights_tokens_are_the_same(gemma: Path, lora: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where LoRA is merged and nothing is packed."""
    llm = load(gemma, lora=lora)
    embeds, mask = prompts(llm)
    wanted = llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=[1]).tolist()
    monkeypatch.setattr("vtblender_nemo.backbones.decoding_weights._packs", lambda weight: False)
    assert llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=[1]).tolist() == wanted


def test_under_autocast_answers_are_those_of_autocast(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    llm.generate(embeds, mask, max_new_tokens=2, stop_ids=[1])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad(), llm.decoding_weights():
        assert llm.causal_lm.base_model.layers[0].mlp.up_proj(embeds).dtype == torch.bfloat16


def test_a_growing_layer_holds_what_it_was_given() -> None:
    layer, held = GrowingLayer(), torch.zeros(2, 1, 0, 3)
    for number, positions in enumerate((5, 1, 1, 200, 1)):
        new = torch.full((2, 1, positions, 3), float(number))
        held = torch.cat([held, new], dim=2)
        keys, values = layer.update(new, -new)
        assert torch.equal(keys, held)
        assert torch.equal(values, -held)
        assert layer.get_seq_length() == held.shape[2]
    layer.crop(-204)
    keys, _ = layer.update(torch.full((2, 1, 1, 3), 9.0), torch.zeros(2, 1, 1, 3))
    assert keys[0, 0, :, 0].tolist() == [0, 0, 0, 0, 9]
    layer.batch_select_indices(torch.tensor([1]))
    keys, _ = layer.update(torch.full((1, 1, 1, 3), 7.0), torch.zeros(1, 1, 1, 3))
    assert keys.shape == (1, 1, 6, 3)
    assert keys[0, 0, :, 0].tolist() == [0, 0, 0, 0, 9, 7]


def test_packed_keys_are_placed_by_hand_computed_rows() -> None:
    layer = GrowingLayer()
    layer.update(torch.arange(1.0, 5.0).view(1, 1, 4, 1), -torch.arange(1.0, 5.0).view(1, 1, 4, 1))
    layer.place_left_padded([1, 3])
    assert layer.keys[:, 0, :, 0].tolist() == [[0, 0, 1], [2, 3, 4]]
    assert layer.values[:, 0, :, 0].tolist() == [[0, 0, -1], [-2, -3, -4]]


def test_padding_is_not_computed(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    seen: list[int] = []
    hook = llm.causal_lm.base_model.layers[0].register_forward_hook(
        lambda _, args, out: seen.append(args[0].shape[:2].numel())
    )
    hidden = prefill(llm, embeds, mask, cache := GrowingCache())
    decode(llm, hidden, mask, cache, Chooser([1]), max_new_tokens=2, stop_ids=[1])
    hook.remove()
    assert seen == [sum(LENS), len(LENS)]


def test_no_room_for_an_answer_is_refused(gemma: Path) -> None:
    llm = load(gemma)
    embeds, mask = prompts(llm)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        llm.generate(embeds, mask, max_new_tokens=0, stop_ids=[1])
