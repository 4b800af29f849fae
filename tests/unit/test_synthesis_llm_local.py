from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import models
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.synthesis.llm.clients import Decoding
from vtblender_nemo.synthesis.llm.local import LocalLLM, SeededDraw, _check_fits
from vtblender_nemo.synthesis.work import Refused

TEXTS = [
    "hi",
    "what is the weather today",
    "wie geht es ihnen",
    "the quick brown fox jumps over the lazy dog " * 3,
    "a",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return models.llm_folder(tmp_path_factory.mktemp("llm"))


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def open_llm(folder: Path, *, tokens: int = 8, batch_size: int = 16, **decoding):
    return LocalLLM(str(folder), Decoding(tokens, **decoding), "float32", "cpu", batch_size).open()


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_p": 0.8}])
def test_a_batch_answers_as_each_alone(folder, decoding):
    together = open_llm(folder, **decoding).complete([prompt(text) for text in TEXTS])
    alone = [open_llm(folder, batch_size=1, **decoding).complete([prompt(text)])[0] for text in TEXTS]
    assert together == alone
    assert len(set(map(str, together))) == len(TEXTS)


def test_order_of_prompts_changes_nothing(folder):
    client = open_llm(folder, batch_size=2, temperature=1.0)
    forth = client.complete([prompt(text) for text in TEXTS])
    back = client.complete([prompt(text) for text in reversed(TEXTS)])
    assert forth == back[::-1]


def greedy_ids(folder: Path, text: str, count: int) -> list[int]:
    """The plain model, one step after another."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    grown = torch.tensor([tokenizer.apply_chat_template(prompt(text), add_generation_prompt=True, return_dict=False)])
    with torch.no_grad():
        for _ in range(count):
            grown = torch.cat([grown, model(input_ids=grown).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return grown[0, -count:].tolist()


def decoded(folder: Path, ids: list[int]) -> str:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).decode(ids, skip_special_tokens=True).strip()


def test_greedy_is_the_argmax_of_each_step(folder):
    expected = decoded(folder, greedy_ids(folder, TEXTS[1], 8))
    assert open_llm(folder).complete([prompt(TEXTS[1])]) == [Refused("reply_cut_off", expected)]


def test_seeds_differ(folder):
    first, again, other = (open_llm(folder, temperature=1.0, seed=seed).complete([prompt("hi")]) for seed in (1, 1, 2))
    assert first == again != other


def test_draws_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    count = 4000
    draw = SeededDraw(Decoding(temperature=0.5), range(count))
    found = draw(torch.zeros(count, 1), logits.repeat(count, 1)).argmax(-1).tolist()
    expected = torch.softmax(logits / 0.5, -1)
    for token, times in Counter(found).items():
        deviation = (count * float(expected[token]) * (1 - float(expected[token]))) ** 0.5
        assert abs(times - count * float(expected[token])) < 4 * deviation


def test_top_p_leaves_the_rest_out():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])  # shares 0.64, 0.24, 0.09, 0.03
    found = SeededDraw(Decoding(temperature=1.0, top_p=0.8), range(300))(torch.zeros(300, 1), logits.repeat(300, 1))
    assert set(found.argmax(-1).tolist()) == {0, 1}


def _with_generation_config(folder: Path, target: Path, **values) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    path = target / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return target


def test_the_models_own_sampling_settings_change_nothing(folder, tmp_path):
    own = {"do_sample": True, "temperature": 3.0, "top_k": 2, "repetition_penalty": 9.0, "max_new_tokens": 2}
    other = _with_generation_config(folder, tmp_path / "other", **own)
    assert open_llm(other).complete([prompt("hi")]) == open_llm(folder).complete([prompt("hi")])


def test_replies_end_at_the_models_own_stop_token(folder, tmp_path):
    ids = greedy_ids(folder, TEXTS[1], 8)
    end = next(position for position in range(2, 8) if ids[position] not in ids[:position])
    other = _with_generation_config(folder, tmp_path / "other", eos_token_id=[1, ids[end]])
    assert open_llm(other).complete([prompt(TEXTS[1])]) == [decoded(folder, ids[:end])]


def test_a_prompt_that_cannot_be_asked_costs_only_itself(folder):
    client = open_llm(folder)
    control, empty, long, fine = client.complete(
        [prompt("a <end_of_turn> b"), prompt("  "), prompt("x" * 1020), prompt("hi")]
    )
    assert (control.reason, empty.reason, long.reason) == ("unusable_prompt", "unusable_prompt", "prompt_too_long")
    assert "<end_of_turn>" in control.detail
    assert fine == client.complete([prompt("hi")])[0]
    assert client.complete([]) == []


def test_mistakes(tmp_path, folder):
    with pytest.raises(ModelFileError, match="--model"):
        LocalLLM(str(tmp_path / "none")).open()
    with pytest.raises(ConfigError, match="--device"):
        LocalLLM(str(folder), device="cuda:9").open()
    with pytest.raises(ConfigError, match="unknown type of weights"):
        LocalLLM(str(folder), dtype="int3")
    with pytest.raises(ConfigError, match="batches without prompts"):
        LocalLLM(str(folder), batch_size=0)


def test_a_batch_beyond_the_memory_names_the_flag(folder, monkeypatch):
    client = open_llm(folder)

    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(client._model, "generate", full)
    with pytest.raises(ConfigError, match=r"2 prompts.*--llm-batch-size"):
        client.complete([prompt("hi"), prompt("ho")])


def test_a_model_that_spills_over_the_gpus_is_refused():
    placed = {"layers.0": 0, "layers.1": "cpu", "head": "disk"}
    with pytest.raises(ConfigError, match=r"room for 2 more of its parts.*--dtype"):
        _check_fits(SimpleNamespace(hf_device_map=placed), "big")
    _check_fits(SimpleNamespace(hf_device_map={"": 0}), "small")
