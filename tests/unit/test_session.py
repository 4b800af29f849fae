"""A session says what a chat recomputed from its beginning says, and runs the new positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import assistant, audio_part, llm_folder, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError

QUESTIONS: list[list[str | dict[str, Any]]] = [
    ["hello"],
    ["what is said?", audio_part(0.5, 1)],
    [audio_part(0.3, 2), "and here", audio_part(0.8, 3)],
    ["thank you"],
]
NEW = 10
Build = Callable[..., VTBlenderModel]


@pytest.fixture(scope="module")
def build(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    def made(family: str = "gemma", **overrides: Any) -> VTBlenderModel:
        window = {"sliding_window": 16} if family in ("gemma2", "gemma3") else {}
        folder = llm_folder(tmp_path_factory.mktemp("llm"), family, **window, **overrides)
        model = VTBlenderModel(model_config(folder, canary)).eval()
        generator = torch.Generator().manual_seed(5)
        for name, weight in model.llm.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3, generator=generator)
        if family in ("gemma2", "gemma3"):  # by chance they would say nothing but control tokens and line ends
            unsaid = torch.tensor([*range(7), *model.tokenizer.encode(" \n", add_special_tokens=False)])
            logits = model.llm.logits
            model.llm.logits = lambda rows: logits(rows).index_fill(-1, unsaid, float("-inf"))
        return model

    return made


@pytest.fixture(scope="module")
def model(build: Build) -> VTBlenderModel:
    return build()


@contextmanager
def positions_run(model: VTBlenderModel) -> Iterator[list[int]]:
    """Positions of each call of the LLM's first layer."""
    seen: list[int] = []
    layer = model.llm.causal_lm.base_model.layers[0]
    hook = layer.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[:2].numel()))
    yield seen
    hook.remove()


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "qwen2", "qwen3", "llama"])
def test_answers_are_those_of_the_whole_chat(build: Build, family: str) -> None:
    model = build(family)
    session, chat = model.session(), []
    answers = []
    for question in QUESTIONS:
        chat.append(user(*question))
        wanted = model.generate([chat], max_new_tokens=NEW)[0]
        answers.append(session.ask(chat[-1]["content"], max_new_tokens=NEW))
        assert answers[-1] == wanted
        chat = [*chat, assistant(wanted)] if wanted else chat[:-1]
    assert sum(map(bool, answers)) > 2


def test_a_system_turn_comes_first(model: VTBlenderModel) -> None:
    chat = [{"role": "system", "content": "be brief"}, user("hello")]
    assert model.session(system="be brief").ask("hello", NEW) == model.generate([chat], max_new_tokens=NEW)[0]
    assert model.session().ask("hello", NEW) == model.generate([chat[1:]], max_new_tokens=NEW)[0]


def test_a_turn_runs_its_own_positions(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens are answered each time, so that the byte tokenizer's ids can be counted by hand."""
    answers = iter([[70, 71, 72], [73, 74, 75]])
    monkeypatch.setattr("vtblender_nemo.models.session.Chooser", lambda *_, **__: Scripted(next(answers)))
    session = model.session()
    with positions_run(model) as seen:
        session.ask([{"type": "text", "text": "hello"}, audio_part(0.8)], 3)
    # <bos>, <start_of_turn>, "user\nhello", 10 frames of 80 ms and the separator, <end_of_turn>, a line end,
    # <start_of_turn>, "model\n"
    assert seen == [1 + 1 + 10 + 11 + 1 + 1 + 1 + 6, 1, 1]
    with positions_run(model) as seen:
        session.ask("bye", 3)
    # the answer's third token, <end_of_turn>, a line end, <start_of_turn>, "user\nbye", <end_of_turn>, a line end,
    # <start_of_turn>, "model\n"
    assert seen == [1 + 1 + 1 + 1 + 8 + 1 + 1 + 1 + 6, 1, 1]


class Scripted:
    """Chooses given tokens."""

    samples = False

    def __init__(self, ids: list[int]) -> None:
        self._ids = iter(ids)

    def __call__(self, logits: torch.Tensor, answered: torch.Tensor) -> torch.Tensor:
        return torch.tensor([next(self._ids)])


def test_an_audio_is_encoded_once(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    encode = model.perception.encode

    def counted(audios: torch.Tensor, lens: torch.Tensor) -> Any:
        heard.append(len(lens))
        return encode(audios, lens)

    monkeypatch.setattr(model.perception, "encode", counted)
    session = model.session()
    for question in QUESTIONS:
        session.ask(user(*question)["content"], NEW)
    assert heard == [1, 2]


def test_an_answer_that_is_tokenised_otherwise_is_run_again(
    model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a character: the chat's text holds a mark in its place, whose ids are others."""
    half = model.tokenizer.encode("ä", add_special_tokens=False)[0]
    letter = model.tokenizer.encode("x", add_special_tokens=False)[0]
    with monkeypatch.context() as patched:
        patched.setattr("vtblender_nemo.models.session.Chooser", lambda *_, **__: Scripted([letter, half, letter]))
        session = model.session()
        assert session.ask("hello", 3) == "x\ufffdx"
    chat = [user("hello"), assistant("x\ufffdx"), user("and?")]
    assert session.ask("and?", NEW) == model.generate([chat], max_new_tokens=NEW)[0]


@pytest.mark.parametrize("fault", ["missing audio", "too long", "inside the LLM"])
def test_after_an_error_the_session_goes_on(model: VTBlenderModel, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session()
    first = session.ask("hello", NEW)
    turns = session.turns
    if fault == "missing audio":
        with pytest.raises(AudioError, match="none.wav"):
            session.ask([{"type": "audio", "audio": "none.wav"}], NEW)
    elif fault == "too long":
        with pytest.raises(DataError, match=r"longer than the LLM's context.*1024"):
            session.ask("a" * 1100, NEW)
    else:
        layer = model.llm.causal_lm.base_model.layers[1]
        hook = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            session.ask("lost", NEW)
        hook.remove()
    assert session.turns == turns
    chat = [user("hello"), assistant(first), user("bye")]
    assert session.ask("bye", NEW) == model.generate([chat], max_new_tokens=NEW)[0]


def test_a_released_session_goes_on(model: VTBlenderModel) -> None:
    session = model.session()
    first = session.ask(user(*QUESTIONS[1])["content"], NEW)
    assert session.bytes > 0
    session.release()
    assert (session.positions, session.bytes) == (0, 0)
    chat = [user(*QUESTIONS[1]), assistant(first), user("bye")]
    assert session.ask("bye", NEW) == model.generate([chat], max_new_tokens=NEW)[0]


def test_what_is_answered_with_nothing_is_not_kept(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session()
    with monkeypatch.context() as patched:
        stop = model.chat_format.stop_ids[0]
        patched.setattr("vtblender_nemo.models.session.Chooser", lambda *_, **__: Scripted([stop]))
        assert session.ask("hello", NEW) == ""
    assert session.turns == ()
    assert session.ask("bye", NEW) == model.generate([[user("bye")]], max_new_tokens=NEW)[0]


def test_sessions_do_not_disturb_each_other(model: VTBlenderModel) -> None:
    one, other = model.session(), model.session()
    firsts = one.ask("hello", NEW), other.ask("what is the weather", NEW)
    for session, question, first in zip((one, other), ("hello", "what is the weather"), firsts, strict=True):
        chat = [user(question), assistant(first), user("bye")]
        assert session.ask("bye", NEW) == model.generate([chat], max_new_tokens=NEW)[0]


def test_sampling_draws_what_generate_draws(model: VTBlenderModel) -> None:
    torch.manual_seed(1)
    wanted = model.generate([[user("hello")]], max_new_tokens=NEW, do_sample=True, temperature=2.0)[0]
    torch.manual_seed(1)
    assert model.session().ask("hello", NEW, do_sample=True, temperature=2.0) == wanted


def test_modules_keep_their_modes(model: VTBlenderModel) -> None:
    model.perception.train()
    try:
        model.session().ask(user(*QUESTIONS[1])["content"], NEW)
        assert model.perception.modality_adapter.training
        assert not model.llm.training
    finally:
        model.eval()


def test_what_a_session_cannot_do_is_refused(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="num_beams"):
        model.session().ask("hello", NEW, num_beams=2)
    with pytest.raises(ConfigError, match="temprature"):
        model.session().ask("hello", NEW, temprature=2)
    layer_types = ["full_attention", "linear_attention"]
    monkeypatch.setattr(model.llm.causal_lm.config, "layer_types", layer_types, raising=False)
    with pytest.raises(ConfigError, match="cannot be cut back"):
        model.session()
