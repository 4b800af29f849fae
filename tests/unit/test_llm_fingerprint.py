"""One LLM has one fingerprint: as a folder, in memory, with and without LoRA, in any type of numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.helpers.models import llm_folder
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.llm_fingerprint import fingerprint, folder_fingerprint

LORA = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "down_proj"]}


def of_folder(folder: Path) -> str:
    return folder_fingerprint(folder, knob="--weights")


def in_memory(folder: Path, dtype: torch.dtype = torch.float32, **kwargs: object) -> TransformersLLM:
    causal_lm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return TransformersLLM(causal_lm, **{"lora": LORA, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "tied"), [("gemma", True), ("llama", False), ("qwen2", True)])
def test_a_folder_and_the_model_from_it_are_one(family, tied, tmp_path):
    folder = llm_folder(tmp_path, family, tie_word_embeddings=tied)
    whole = of_folder(folder)
    assert len(whole) == 64
    assert in_memory(folder).fingerprint() == whole
    assert in_memory(folder, lora=None, trainable=True).fingerprint() == whole
    assert in_memory(folder, torch.bfloat16).fingerprint() == whole


def test_it_follows_the_llm_and_not_what_was_trained_beside_it(gemma):
    llm = in_memory(gemma)
    before = llm.fingerprint()
    with torch.no_grad():
        for name, weight in llm.named_parameters():
            if ".lora_" in name:
                weight.add_(1.0)
    assert llm.fingerprint() == before
    with torch.no_grad():
        llm.causal_lm.get_input_embeddings().weight[9, 3] += 0.5
    assert llm.fingerprint() != before


def test_what_counts_is_shapes_and_values():
    a, b = torch.arange(6.0), torch.tensor([1.5, 2.5])
    assert fingerprint([a, b]) == fingerprint([b, a, a.clone()]) == fingerprint(iter([a.bfloat16(), b.double()]))
    others = [[a], [a, b, b + 1], [a.view(2, 3), b], [a.long(), b], []]
    assert len({fingerprint(weights) for weights in [[a, b], *others]}) == 1 + len(others)
    assert fingerprint([torch.tensor(1.0)]) != fingerprint([torch.tensor([1.0])])


def test_shards_and_what_is_computed_anyway_change_nothing(gemma, tmp_path):
    sharded = tmp_path / "sharded"
    shutil.copytree(gemma, sharded)
    weights = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4)} if file[0] == "b" else {}
        save_file({name: weights[name] for name in held} | more, sharded / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert of_folder(sharded) == of_folder(gemma)


@pytest.mark.parametrize("broken", ["missing", "empty", "not safetensors", "index of nothing", "no index"])
def test_weights_that_cannot_be_read(tmp_path, broken):
    folder = tmp_path / "llm"
    if broken != "missing":
        folder.mkdir()
    if broken == "not safetensors":
        (folder / "model.safetensors").write_bytes(b"weights")
    if broken == "index of nothing":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    if broken == "no index":
        (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"llm'; expected .*model.safetensors.*--weights"):
        of_folder(folder)
