"""The engine says what the model says by itself, whoever else asks at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import (
    assistant,
    audio_part,
    llm_folder,
    model_config,
    most_answered,
    talking_model,
    user,
    with_loud_lora,
)
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import Turn, from_messages
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.models.slots import read_slots
from vtblender_nemo.serving.engine import admission
from vtblender_nemo.serving.engine.engine import Engine, EngineConfig
from vtblender_nemo.serving.engine.prefill import run_prompts
from vtblender_nemo.serving.engine.requests import (
    BusyError,
    Done,
    EngineError,
    Event,
    Failed,
    LateError,
    Piece,
    Reason,
    Sampling,
    StoppedError,
)
from vtblender_nemo.serving.engine.running import RunningRows
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
    audio = audio_part(0.9, 1)
    chat = [user(most_answered(model, audio, NEW), audio)]
    first = ask(engine, turns(chat), GREEDY)
    assert first.text
    assert first.done.usage.cached_positions == 0
    chat += [assistant(first.text), user("and what else was said in it?")]
    wanted = model.generate([chat], max_new_tokens=NEW)[0]
    second = ask(engine, turns(chat), GREEDY)
    assert second.text == wanted
    usage = second.done.usage
    assert usage.cached_positions >= first.done.usage.prompt_positions
    assert usage.prompt_positions > usage.cached_positions


def test_another_audio_in_the_same_place_is_heard(engine: Engine, model: VTBlenderModel) -> None:
    """Two audios to which the model says different things."""
    chats = [[user(text, audio_part(secs))] for text in ("hello", "go on") for secs in (0.5, 0.9, 1.4, 2.0)]
    said = model.generate(chats, max_new_tokens=NEW)
    other = next(n for n in range(8) if said[n] != said[n - n % 4])
    for number in (other - other % 4, other):
        assert ask(engine, turns(chats[number]), GREEDY).text == said[number]


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


def test_what_fails_before_it_joins_fails_alone(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of memory: together the prompts fail, one of them also by itself."""
    engine = Engine(model)
    wanted = [model.generate([chat], max_new_tokens=NEW)[0] for chat in CHATS]

    def run(llm: Any, prompts: Any) -> Any:
        if len(prompts) > 1 or len(prompts[0].rest) == len(turn_slots):
            raise RuntimeError("out of memory")
        yield from run_prompts(llm, prompts)

    turn_slots = list(read_slots(model.chat_format, turns(CHATS[2])))
    monkeypatch.setattr(admission, "run_prompts", run)
    with engine._changed:  # all are there at once
        heard = submitted(engine, CHATS)
    ends = [one.end() for one in heard]
    engine.close()
    failed = ends.pop(2)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, EngineError)
    assert "out of memory" in str(failed.error)
    assert all(isinstance(end, Done) for end in ends)
    assert [one.text for n, one in enumerate(heard) if n != 2] == [text for n, text in enumerate(wanted) if n != 2]


def test_an_engine_whose_device_is_lost_stops(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model)

    def fail(rows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("device-side assert")

    with monkeypatch.context() as broken:
        broken.setattr(model.llm, "logits", fail)
        for _ in range(3):
            (heard,) = submitted(engine, [CHATS[0]])
            assert isinstance(heard.end(), Failed)
        engine._thread.join(60)
    assert not engine.is_alive
    with pytest.raises(StoppedError):
        engine.submit(turns(CHATS[0]), GREEDY, Heard())


@pytest.mark.parametrize("text", ["half \ud800", "far too long " * 20_000])
def test_texts_that_no_tokenizer_takes_are_told(engine: Engine, text: str) -> None:
    heard = Heard()
    engine.submit(turns([user(text)]), GREEDY, heard)
    end = heard.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, DataError)


def test_hardly_any_temperature_is_none(engine: Engine) -> None:
    wanted = ask(engine, turns(CHATS[1]), GREEDY).text
    assert ask(engine, turns(CHATS[1]), Sampling(NEW, temperature=1e-40)).text == wanted


class Hold:
    """A listener that holds the engine's thread until it is let go."""

    def __init__(self) -> None:
        self.is_held, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self.is_held.set()
        assert self._goes_on.wait(60)

    def let_go(self) -> None:
        self._goes_on.set()


def test_cancelled_and_late_requests_leave_the_queue(model: VTBlenderModel) -> None:
    engine = Engine(model, EngineConfig(max_rows=1, queue_size=2))
    hold, cancelled, late, last = Hold(), Heard(), Heard(), Heard()
    engine.submit(turns(CHATS[0]), GREEDY, hold)
    assert hold.is_held.wait(60)
    engine.submit(turns(CHATS[1]), GREEDY, cancelled).cancel()
    engine.submit(turns(CHATS[1]), GREEDY, late, within_secs=0.0)
    engine.submit(turns(CHATS[1]), GREEDY, last)
    hold.let_go()
    assert isinstance(last.end(), Done)
    engine.close()
    first, second = cancelled.end(), late.end()
    assert isinstance(first, Done)
    assert first.reason is Reason.CANCELLED
    assert isinstance(second, Failed)


def test_the_cache_holds_to_its_positions(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 260
    engine = Engine(model, EngineConfig(max_positions=limit, prefix_bytes=0))
    wanted = [model.generate([chat], max_new_tokens=NEW)[0] for chat in CHATS]
    seen: list[tuple[int, int]] = []
    advance = RunningRows.advance

    def watched(rows: RunningRows) -> None:
        advance(rows)
        seen.append((len(rows), rows._mask.numel()))

    monkeypatch.setattr(RunningRows, "advance", watched)
    heard = submitted(engine, CHATS * 2)
    assert all(isinstance(one.end(), Done) for one in heard)
    engine.close()
    assert [one.text for one in heard] == wanted * 2
    assert max(rows for rows, _ in seen) > 1
    assert all(positions <= limit for rows, positions in seen if rows > 1)


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
