"""The harness's model class against transformers itself, the harness's own class, and the model's own answers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from tests.helpers import models
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.text.language_model import HarnessLM

PAIRS = [
    ("what is the weather", " today"),
    ("what is the weather", " tomorrow and the day after"),
    ("hello", " how are you"),
    ("a", "b"),
]
ASKED = ["hello how are you", "wie geht es ihnen", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def model(gemma: Path, canary: Path) -> Any:
    """A model whose LoRA says something: B is made zero, which would leave the base LLM."""
    from vtblender_nemo import VTBlenderModel

    model = VTBlenderModel(models.model_config(gemma, canary)).eval()
    torch.manual_seed(1)
    for name, weight in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def harness(model: Any, **options: Any) -> HarnessLM:
    return HarnessLM(model.llm, model.chat_format, **{"batch_size": 2, **options})


def scored(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("task", 0, 1))


def asked(prompt: str, **settings: Any) -> Instance:
    settings = {"until": [], "max_gen_toks": 12, **settings}
    return Instance("generate_until", {}, (prompt, settings), 0, metadata=("task", 0, 1))


def values(found: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in found]


@torch.no_grad()
def by_hand(causal_lm: Any, context: str, continuation: str) -> float:
    ids = make_tokenizer()(context + continuation, add_special_tokens=False, return_tensors="pt")["input_ids"]
    logprobs = causal_lm(ids).logits[0, :-1].log_softmax(-1)
    chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    return float(chosen[-len(continuation) :].sum())  # a token a byte


def test_log_likelihoods_are_those_of_the_logits(model) -> None:
    found = values(harness(model).loglikelihood([scored(*pair) for pair in PAIRS], disable_tqdm=True))
    assert found == pytest.approx([by_hand(model.llm.causal_lm, *pair) for pair in PAIRS], abs=1e-4)


def test_log_likelihoods_are_those_of_the_harness_own_class(model, gemma) -> None:
    """On the base LLM, read anew: other attention, no LoRA layers, no packing."""
    own = HFLM(AutoModelForCausalLM.from_pretrained(gemma), tokenizer=make_tokenizer(), batch_size=3)
    chats = [own.apply_chat_template([{"role": "user", "content": context}]) for context, _ in PAIRS]
    requests = [scored(chat, continuation) for chat, (_, continuation) in zip(chats, PAIRS, strict=True)]
    wanted = own.loglikelihood(requests, disable_tqdm=True)
    ours = harness(model)
    assert [ours.apply_chat_template([{"role": "user", "content": context}]) for context, _ in PAIRS] == chats
    with model.llm.without_lora():
        base = ours.loglikelihood(requests, disable_tqdm=True)
    assert values(base) == pytest.approx(values(wanted), abs=1e-4)
    assert [greedy for _, greedy in base] == [greedy for _, greedy in wanted]
    checkpoint = harness(model).loglikelihood(requests, disable_tqdm=True)
    assert values(checkpoint) != pytest.approx(values(wanted), abs=0.1)


def test_whole_texts_are_scored_from_their_first_token_on(model) -> None:
    request = Instance("loglikelihood_rolling", {}, ("hello how are you",), 0, metadata=("task", 0, 1))
    (found,) = harness(model).loglikelihood_rolling([request], disable_tqdm=True)
    assert found == pytest.approx(by_hand(model.llm.causal_lm, "<bos>", "hello how are you"), abs=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_greedy_answers_are_the_models_own(model, lora) -> None:
    """In one batch of prompts of different lengths."""
    chats = [[{"role": "user", "content": text}] for text in ASKED]
    with nullcontext() if lora else model.llm.without_lora():
        ours = harness(model, batch_size=3)
        found = ours.generate_until([asked(ours.apply_chat_template(chat)) for chat in chats], disable_tqdm=True)
        assert [text.strip() for text in found] == model.generate(chats, max_new_tokens=12)
    assert len(set(found)) > 1


def test_prompts_are_the_ids_that_the_model_was_trained_on(model) -> None:
    from vtblender_nemo.common.conversation import from_messages

    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "how are you"},
        {"role": "user", "content": "what is the weather"},
    ]
    ours = harness(model)
    assert ours.tok_encode(ours.apply_chat_template(chat)) == model.chat_format.encode(from_messages(chat).turns).ids


class Scripted:
    """An LLM that answers with given ids."""

    def __init__(self, model: Any, ids: list[int]) -> None:
        self.causal_lm, self.max_positions, self.embed = (
            model.llm.causal_lm,
            model.llm.max_positions,
            model.llm.embed,
        )
        self.ids, self.calls = ids, 0

    def generate(self, embeds: torch.Tensor, mask: torch.Tensor, **settings: Any) -> torch.Tensor:
        self.calls += len(embeds)
        self.settings = settings
        return torch.tensor([self.ids] * len(embeds))


def scripted(model: Any, text: str) -> Scripted:
    return Scripted(model, make_tokenizer()(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("said", "until", "kept"),
    [
        ("one<end_of_turn>two", [], "one"),
        ("one<eos>two", [], "one"),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one Q: two", ["Q:", "x"], "one "),
        ("one two", [], "one two"),
    ],
)
def test_answers_end_where_the_turn_ends_or_the_task_says(model, said, until, kept) -> None:
    llm = scripted(model, said)
    ours = HarnessLM(llm, model.chat_format)
    assert ours.generate_until([asked("hello", until=until)], disable_tqdm=True) == [kept]
    assert llm.settings == {"max_new_tokens": 12, "stop_ids": list(model.chat_format.stop_ids)}


def test_settings_of_drawn_answers_reach_the_model(model) -> None:
    llm = scripted(model, "one")
    drawn = asked("hello", do_sample=True, temperature=0.7, top_p=0.9)
    HarnessLM(llm, model.chat_format).generate_until([drawn], disable_tqdm=True)
    assert {k: llm.settings[k] for k in ("do_sample", "temperature", "top_p")} == {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }


def test_a_second_run_asks_only_what_is_new(model, tmp_path) -> None:
    path, llm = tmp_path / "journal", scripted(model, "one")
    first = HarnessLM(llm, model.chat_format, journal=Journal(path), settings={"model": "a"})
    first.generate_until([asked("hello"), asked("you")], disable_tqdm=True)
    assert llm.calls == 2
    again, other = scripted(model, "two"), scripted(model, "three")
    second = HarnessLM(again, model.chat_format, journal=Journal(path), settings={"model": "a"})
    assert second.generate_until([asked("fox"), asked("you"), asked("hello")], disable_tqdm=True) == [
        "two",
        "one",
        "one",
    ]
    assert again.calls == 1
    assert second.generate_until([asked("hello", max_gen_toks=3)], disable_tqdm=True) == ["two"]
    third = HarnessLM(other, model.chat_format, journal=Journal(path), settings={"model": "b"})
    assert third.generate_until([asked("hello")], disable_tqdm=True) == ["three"]


def test_scored_pairs_are_kept_too_and_drawn_answers_are_not(model, tmp_path, monkeypatch) -> None:
    path = tmp_path / "journal"
    wanted = harness(model, journal=Journal(path)).loglikelihood([scored(*p) for p in PAIRS], disable_tqdm=True)
    drawn = asked("hello", do_sample=True, temperature=1.0)
    HarnessLM(scripted(model, "one"), model.chat_format, journal=Journal(path)).generate_until(
        [drawn], disable_tqdm=True
    )
    monkeypatch.setattr(HarnessLM, "_model_call", lambda *_: pytest.fail("computed again"))
    kept = harness(model, journal=Journal(path))
    assert kept.loglikelihood([scored(*pair) for pair in reversed(PAIRS)], disable_tqdm=True) == wanted[::-1]
    again = HarnessLM(scripted(model, "two"), model.chat_format, journal=Journal(path))
    assert again.generate_until([drawn], disable_tqdm=True) == ["two"]


def test_the_model_stays_as_it_was(model) -> None:
    padding, before = model.tokenizer.padding_side, model.llm.fingerprint()
    tied = model.llm.causal_lm.get_output_embeddings().weight
    ours = harness(model)
    ours.generate_until([asked("hello"), asked("how are you")], disable_tqdm=True)
    assert model.tokenizer.padding_side == padding
    assert model.llm.fingerprint() == before
    assert model.llm.causal_lm.get_output_embeddings().weight is tied
    assert not tied.is_inference()


def test_answers_that_leave_no_room_for_a_prompt_are_refused(model) -> None:
    with pytest.raises(ConfigError, match=r"1024.*max_gen_toks"):
        harness(model).generate_until([asked("hello", max_gen_toks=1024)], disable_tqdm=True)
