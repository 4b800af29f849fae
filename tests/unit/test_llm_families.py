"""The LLM's four calls against Hugging Face's own forward, family by family."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.models import FAMILIES, llm_folder, model_config
from vtblender_nemo.backbones import packed_attention
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError, ModelFileError

LORA = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "down_proj"]}


def load(folder: Path, **kwargs: object) -> TransformersLLM:
    causal_lm = load_llm(str(folder), llm_config(str(folder)), "float32")
    return TransformersLLM(causal_lm, **{"lora": LORA, **kwargs}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_and_logits_equal_the_whole_forward(family: str, tmp_path: Path) -> None:
    llm = load(llm_folder(tmp_path, family))
    ids = torch.randint(7, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    with torch.no_grad():
        found = llm.logits(llm.hidden(llm.embed(ids), mask))
        wanted = llm.causal_lm(input_ids=ids, attention_mask=mask.long()).logits
    assert wanted.std() > 0.05
    torch.testing.assert_close(found[mask], wanted[mask], rtol=1e-4, atol=1e-4)


def test_an_unknown_head_is_refused(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causal_lm = load_llm(str(gemma), llm_config(str(gemma)), "float32")
    plain = type(causal_lm).forward

    def scaled(self: torch.nn.Module, *args: object, **kwargs: object) -> object:
        output = plain(self, *args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(type(causal_lm), "forward", scaled)
    with pytest.raises(ConfigError, match="makes its logits in a way that is not supported"):
        TransformersLLM(causal_lm, lora=None)


def test_lora_starts_as_the_base_and_only_lora_is_trained(gemma: Path) -> None:
    plain, wrapped = load(gemma, lora=None), load(gemma)
    ids = torch.arange(7, 17)[None]
    mask = torch.ones(1, 10, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(wrapped.hidden(wrapped.embed(ids), mask), plain.hidden(plain.embed(ids), mask))
    trained = {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    a = [w for n, w in wrapped.named_parameters() if "lora_A" in n and "q_proj" in n]
    assert all(abs(float(w.detach().std()) - (2 / (32 + 2)) ** 0.5) < 0.08 for w in a)  # Xavier's normal rule
    assert plain.fingerprint() == load(gemma, lora=None).fingerprint()


def test_target_modules_that_match_nothing_are_refused(gemma: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(gemma, lora={"r": 2, "target_modules": ["nowhere"]})


def test_unknown_override_and_missing_folder_are_named(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.llm_overrides.attention_dropuot"):
        llm_config(str(gemma), {"attention_dropuot": 0.1})
    with pytest.raises(ModelFileError, match="model.pretrained_llm"):
        llm_config(str(tmp_path / "nothing"))


def test_four_bit_needs_cuda(gemma: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="model.quantization=null"):
        load_llm(str(gemma), llm_config(str(gemma)), "float32", quantization="4bit")


def test_weights_that_are_missing_are_not_left_at_random(gemma: Path, tmp_path: Path) -> None:
    shutil.copytree(gemma, folder := tmp_path / "llm")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=f"lack weights.*{name}"):
        load_llm(str(folder), llm_config(str(folder)), "float32")


def test_answers_do_not_follow_the_folders_generation_config(gemma: Path, tmp_path: Path) -> None:
    shutil.copytree(gemma, folder := tmp_path / "llm")
    (folder / "generation_config.json").write_text(
        '{"repetition_penalty": 50.0, "do_sample": true, "temperature": 3.0}'
    )
    embeds = load(gemma).embed(torch.arange(7, 27)[None])
    mask = torch.ones(1, 20, dtype=torch.bool)
    answers = [load(path).generate(embeds, mask, max_new_tokens=12, stop_ids=[1]).tolist() for path in (gemma, folder)]
    assert answers[0] == answers[1]


def test_training_in_bfloat16_is_refused(gemma: Path, tmp_path: Path) -> None:
    """What is trained is kept in float32; the model says so before it loads anything else."""
    from vtblender_nemo import VTBlenderModel

    cfg = model_config(gemma, tmp_path / "none.nemo", train_llm=True, lora=None, llm_dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"model.llm_dtype"):
        VTBlenderModel(cfg)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [({"temprature": 0.5}, "unknown argument.*temperature"), ({"temperature": 0.5}, "no effect.*do_sample=True")],
)
def test_sampling_that_would_be_ignored_is_refused(gemma: Path, sampling: dict[str, float], message: str) -> None:
    llm = load(gemma)
    with pytest.raises(ConfigError, match=message):
        llm.generate(
            llm.embed(torch.tensor([[7]])), torch.ones(1, 1).bool(), max_new_tokens=1, stop_ids=[1], **sampling
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_conversations_equal_those_alone(family: str, tmp_path: Path) -> None:
    """Values, and gradients with respect to embeddings and LoRA; 9 positions are more than the sliding windows."""
    window = {"sliding_window": 4} if family in ("gemma2", "gemma3") else {}
    llm = load(llm_folder(tmp_path, family, **window))
    for name, weight in llm.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    lens = [5, 9, 1, 4, 8, 5]  # some of which are computed together
    ids = torch.randint(7, 200, (sum(lens),), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(sum(lens), llm.hidden_size, generator=torch.Generator().manual_seed(1))

    def values_and_gradients(packed: bool) -> list[torch.Tensor]:
        embeds = llm.embed(ids).detach().requires_grad_()
        if packed:
            hidden = llm.hidden_packed(embeds, lens)
        else:
            alone = [llm.causal_lm.base_model(inputs_embeds=one[None])[0][0] for one in embeds.split(lens)]
            hidden = torch.cat(alone)
        llm.zero_grad()
        (hidden * weights).sum().backward()
        assert embeds.grad is not None
        return [hidden.detach(), embeds.grad, *(p.grad.clone() for p in llm.parameters() if p.grad is not None)]

    found, wanted = values_and_gradients(True), values_and_gradients(False)
    assert len(found) > 5
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_conversations_of_like_length_are_attended_together() -> None:
    packing = packed_attention.Packing.of([4, 1, 3], torch.device("cpu"))
    assert [group.tolist() for group in packing.groups] == [[[0, 1, 2, 3], [5, 6, 7, 7]], [[4]]]
    assert packing.places.tolist() == [0, 1, 2, 3, 8, 4, 5, 6]
    assert packing.positions.tolist() == [[0, 1, 2, 3, 0, 0, 1, 2]]
    assert packing.ends.tolist() == [0, 4, 5, 8]


def test_an_llm_that_mixes_packed_conversations_is_refused(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = packed_attention.Packing.of
    monkeypatch.setattr(packed_attention.Packing, "of", lambda lens, device: apart([sum(lens)], device))
    causal_lm = load_llm(str(gemma), llm_config(str(gemma)), "float32")
    with pytest.raises(ConfigError, match=r"without mixing them.*packed_sdpa.*model.packing=false"):
        TransformersLLM(causal_lm, lora=None)
    TransformersLLM(causal_lm, lora=None, packing=False)


def test_the_attention_that_packs_is_the_plain_one_elsewhere(tmp_path: Path) -> None:
    for family in ("llama", "gemma2"):
        folder = llm_folder(tmp_path, family)
        packs, plain = load(folder, lora=None), load(folder, lora=None, packing=False)
        ids, mask = torch.arange(7, 19).view(2, 6), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
        with torch.no_grad():
            outputs = [llm.causal_lm(input_ids=ids, attention_mask=mask).logits for llm in (packs, plain)]
            answers = [llm.generate(llm.embed(ids), mask, max_new_tokens=5, stop_ids=[1]) for llm in (packs, plain)]
        assert torch.equal(*outputs)
        assert torch.equal(*answers)
