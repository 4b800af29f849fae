"""The engine says what the model says by itself, whoever else asks at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import assistant, audio_part, llm_folder, model_config, talking_model, user, with_loud_lora
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import Turn, from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.serving.engine.engine import Engine, EngineConfig
from vtblender_nemo.serving.engine.requests import (
    BusyError,
    Done,
    Event,
    Failed,
    LateError,
    Piece,
    Reason,
    Sampling,
    StoppedError,
)
from vtblender_nemo.serving.engine.stream import Stream, ask

NEW = 12
GREEDY = Sampling(max_new_tokens=NEW)
CHATS: list[list[dict[str, Any]]] = [
    [user("hello")],
    [user("what is said?", audio_part(0.5, 1))],
    [user(audio_part(0.3, 2), "and here", audio_part(0.8, 3))],
    [user("good day to you all, how are you?"), assistant("well"), user("and what is this?", audio_part(1.2, 4))],
    [user(audio_part(2.0, 5))],
]


def turns(chat: list[dict[str, Any]]) -> tuple[Turn, ...]:
    return from_messages(chat).turns


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VTBlenderModel:
    return talking_model(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def talkative(model: VTBlenderModel) -> list[dict[str, Any]]:
    """The chat with the longest answer."""
    return max(CHATS, key=lambda chat: len(model.generate([chat], max_new_tokens=NEW)[0]))


@pytest.fixture
def engine(model: VTBlenderModel) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.over = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Piece):
            self.over.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))

    def end(self) -> Event:
        assert self.over.wait(60)
        return self.events[-1]


def submitted(engine: Engine, chats: list[list[dict[str, Any]]], sampling: Sampling = GREEDY) -> list[Heard]:
    heard = [Heard() for _ in chats]
    for chat, listener in zip(chats, heard, strict=True):
        engine.submit(turns(chat), sampling, listener)
    return heard


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "qwen3", "llama"])
def test_answers_are_those_of_the_model_alone(canary: Path, tmp_path: Path, family: str) -> None:
    """With fewer rows than requests, so that they join answers of all lengths that are in the making."""
    window = {"sliding_window": 16} if family in ("gemma2", "gemma3") else {}
    model = with_loud_lora(VTBlenderModel(model_config(llm_folder(tmp_path, family, **window), canary)).eval())
    wanted = [model.generate([chat], max_new_tokens=NEW)[0] for chat in CHATS]
    engine = Engine(model, EngineConfig(max_rows=2))
    try:
        heard = submitted(engine, CHATS)
        assert all(isinstance(one.end(), Done) for one in heard)
        assert [one.text for one in heard] == wanted
    finally:
        engine.close()


def test_rows_come_and_go(model: VTBlenderModel) -> None:
    wanted = [model.generate([chat], max_new_tokens=NEW)[0] for chat in CHATS]
    assert sum(map(bool, wanted)) >= 3
    for rows in (1, 3, 8):
        engine = Engine(model, EngineConfig(max_rows=rows))
        heard = submitted(engine, CHATS * 3)
        ends = [one.end() for one in heard]
        engine.close()
        assert [one.text for one in heard] == wanted * 3
        assert {end.reason for end in ends if isinstance(end, Done)} <= {Reason.STOP, Reason.LENGTH}


def test_a_chat_that_goes_on_runs_its_new_turn_alone(engine: Engine, model: VTBlenderModel) -> None:
    chat = [user("what is said?", audio_part(0.9, 1))]
    first = ask(engine, turns(chat), GREEDY)
    assert first.done.usage.cached_positions == 0
    chat += [assistant(first.text), user("and what else was said in it?")]
    wanted = model.generate([chat], max_new_tokens=NEW)[0]
    second = ask(engine, turns(chat), GREEDY)
    assert second.text == wanted
    usage = second.done.usage
    assert usage.cached_positions >= first.done.usage.prompt_positions
    assert usage.prompt_positions > usage.cached_positions
    other = [user("what is said?", audio_part(0.9, 2)), *chat[1:]]  # another audio in the same place
    assert ask(engine, turns(other), GREEDY).text == model.generate([other], max_new_tokens=NEW)[0]


def test_prefixes_hold_to_their_memory(model: VTBlenderModel) -> None:
    engine = Engine(model, EngineConfig(prefix_bytes=100_000))
    try:
        for number in range(6):
            ask(engine, turns([user(audio_part(1.0 + 0.1 * number, number))]), GREEDY)
            assert 0 < engine.prefix_bytes <= 100_000
    finally:
        engine.close()


def test_pieces_come_before_the_end(engine: Engine, talkative: list[dict[str, Any]]) -> None:
    (heard,) = submitted(engine, [talkative])
    heard.end()
    pieces = [event.text for event in heard.events if isinstance(event, Piece)]
    assert len(pieces) > 3
    assert all(pieces)


def test_stop_texts_end_an_answer(engine: Engine, model: VTBlenderModel, talkative: list[dict[str, Any]]) -> None:
    whole = model.generate([talkative], max_new_tokens=NEW)[0]
    stop = whole[3:5]
    answer = ask(engine, turns(talkative), Sampling(NEW, stop=(stop, "never")))
    assert answer.text == whole[: whole.index(stop)].rstrip()
    assert answer.done.reason is Reason.STOP
    assert answer.done.usage.answer_tokens < NEW


def test_sampling_follows_the_seed_whoever_is_beside(engine: Engine) -> None:
    sampling = Sampling(NEW, temperature=1.5, seed=7)
    alone = ask(engine, turns(CHATS[1]), sampling).text
    beside = submitted(engine, [CHATS[1], CHATS[0], CHATS[1]], sampling)
    for one in beside:
        one.end()
    assert beside[0].text == beside[2].text == alone
    others = {ask(engine, turns(CHATS[1]), Sampling(NEW, temperature=1.5, seed=seed)).text for seed in range(6)}
    assert len(others) > 3


def test_a_broken_audio_fails_alone(engine: Engine, model: VTBlenderModel, tmp_path: Path) -> None:
    wave = tmp_path / "cut.wav"
    import soundfile

    soundfile.write(wave, torch.zeros(16000).numpy(), 16000)
    chat = turns([user({"type": "audio", "audio": str(wave)})])
    wave.write_bytes(wave.read_bytes()[:60])
    heard = Heard()
    good = submitted(engine, [CHATS[0]])
    engine.submit(chat, GREEDY, heard)
    good += submitted(engine, [CHATS[2]])
    end = heard.end()
    assert isinstance(end, Failed)
    assert "cut.wav" in str(end.error)
    for one in good:
        assert isinstance(one.end(), Done)


def test_what_cannot_be_answered_is_told(engine: Engine) -> None:
    long = Heard()
    engine.submit(turns([user("far too long " * 400)]), GREEDY, long)
    end = long.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, DataError)
    with pytest.raises(DataError, match="wrong role"):
        engine.submit(turns([user("hello"), assistant("hi")]), GREEDY, Heard())


def test_cancelled_answers_leave(model: VTBlenderModel, talkative: list[dict[str, Any]]) -> None:
    """The first answer is cancelled by its own first piece; the second has its place at once."""
    engine = Engine(model, EngineConfig(max_rows=1))
    first, second = Heard(), Heard()
    request = []

    def listener(event: Event) -> None:
        first(event)
        request[0].cancel()

    with engine._changed:  # the engine waits until both are there
        request.append(engine.submit(turns(talkative), Sampling(200), listener))
        engine.submit(turns(CHATS[1]), GREEDY, second)
    end = first.end()
    assert isinstance(end, Done)
    assert end.reason is Reason.CANCELLED
    assert isinstance(second.end(), Done)
    engine.close()


def test_a_full_queue_refuses(model: VTBlenderModel) -> None:
    engine = Engine(model, EngineConfig(max_rows=1, queue_size=2))
    with engine._changed:
        heard = submitted(engine, CHATS[:2])
        with pytest.raises(BusyError, match="too many requests"):
            engine.submit(turns(CHATS[2]), GREEDY, Heard())
    assert all(isinstance(one.end(), Done) for one in heard)
    engine.close()


def test_late_answers_fail(engine: Engine) -> None:
    heard = Heard()
    engine.submit(turns(CHATS[0]), GREEDY, heard, within_secs=0.0)
    end = heard.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, LateError)


def test_a_failure_of_the_model_fails_its_answers_and_no_later_ones(
    model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model)
    with monkeypatch.context() as broken:

        def fail(rows: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

        broken.setattr(model.llm, "logits", fail)
        (heard,) = submitted(engine, [CHATS[0]])
        end = heard.end()
    assert isinstance(end, Failed)
    assert "out of memory" in str(end.error)
    assert ask(engine, turns(CHATS[0]), GREEDY).text == model.generate([CHATS[0]], max_new_tokens=NEW)[0]
    engine.close()


def test_closing_fails_what_waits(model: VTBlenderModel) -> None:
    engine = Engine(model, EngineConfig(max_rows=1))
    heard = submitted(engine, [CHATS[0], CHATS[1]], Sampling(500))
    engine.close()
    ends = [one.end() for one in heard]
    assert any(isinstance(end, Failed) and isinstance(end.error, StoppedError) for end in ends)
    assert not engine.is_alive
    with pytest.raises(StoppedError):
        engine.submit(turns(CHATS[0]), GREEDY, Heard())


def test_a_stream_that_is_left_cancels(engine: Engine, talkative: list[dict[str, Any]]) -> None:
    with Stream(engine, turns(talkative), Sampling(200)) as pieces:
        next(iter(pieces))
    assert pieces._request.is_cancelled


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_sampling_out_of_range_is_refused(values: dict[str, Any], knob: str) -> None:
    with pytest.raises(ConfigError, match=knob):
        Sampling(**values)
