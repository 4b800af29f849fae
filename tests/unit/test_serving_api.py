"""OpenAI's own client talks with the server; strangers cannot harm it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from tests.helpers.models import audio_part, most_answered, speech, talking_model, user
from tests.helpers.serving import input_audio, served, wav_bytes
from tests.unit.test_serving_uploads import HOSTILE
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.models.generation import as_conversations
from vtblender_nemo.models.long_audio import split_long_audio
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.engine import Engine, EngineConfig
from vtblender_nemo.serving.engine.requests import Done, Event, Piece, Reason, Sampling
from vtblender_nemo.serving.uploads import AudioLimits

NEW = 12
WAV = wav_bytes(speech(0.9, 1), subtype="FLOAT")
LONG = wav_bytes(np.zeros(25 * 16000, np.float32), kind="FLAC")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VTBlenderModel:
    return talking_model(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def engine(model: VTBlenderModel) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with served(engine, max_new_tokens=40, audio=AudioLimits(max_secs=60)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def talk(model: VTBlenderModel) -> list[Any]:
    """Parts of a message whose answer is long."""
    return [most_answered(model, audio_part(0.9, 1), NEW), input_audio(WAV)]


def asked(*parts: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": NEW, **more}


def test_a_chat_of_text_and_audio(client: openai.OpenAI, model: VTBlenderModel) -> None:
    (wanted,) = model.generate([[user("what is said?", audio_part(0.9, 1), "and here", audio_part(0.4, 2))]], NEW)
    other = wav_bytes(speech(0.4, 2), subtype="FLOAT")
    answer = client.chat.completions.create(**asked("what is said?", input_audio(WAV), "and here", input_audio(other)))
    assert answer.choices[0].message.content == wanted
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 20


def test_a_stream_says_the_same(client: openai.OpenAI, talk: list[Any]) -> None:
    request = asked(*talk)
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_turns_reuse_the_chat(client: openai.OpenAI, model: VTBlenderModel, talk: list[Any]) -> None:
    first = client.chat.completions.create(**asked(*talk))
    said = first.choices[0].message.content
    assert said
    chat = [
        *asked(*talk)["messages"],
        {"role": "assistant", "content": said},
        {"role": "user", "content": "say that again"},
    ]
    second = client.chat.completions.create(model="tiny", messages=chat, max_tokens=NEW)
    own = [user(talk[0], audio_part(0.9, 1)), *chat[1:]]
    assert second.choices[0].message.content == model.generate([own], NEW)[0]
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens > 10


def test_stop_seed_and_temperature(client: openai.OpenAI, talk: list[Any]) -> None:
    whole = client.chat.completions.create(**asked(*talk)).choices[0].message.content
    stop = whole[1]
    answer = client.chat.completions.create(**asked(*talk), stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)].rstrip()
    assert answer.choices[0].finish_reason == "stop"
    drawn = [client.chat.completions.create(**asked(*talk), temperature=1.8, seed=seed) for seed in (1, 1, 2, 3)]
    texts = [answer.choices[0].message.content for answer in drawn]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_transcriptions(client: openai.OpenAI, model: VTBlenderModel) -> None:
    (wanted,) = model.generate([[user("Transcribe:", audio_part(0.9, 1))]], 40)
    file = ("speech.wav", WAV)
    assert client.audio.transcriptions.create(model="tiny", file=file).text == wanted
    assert client.audio.transcriptions.create(model="tiny", file=file, response_format="text").strip() == wanted
    (english,) = model.generate([[user("Translate to English:", audio_part(0.9, 1))]], 40)
    assert client.audio.translations.create(model="tiny", file=file).text == english
    (biased,) = model.generate([[user("These words may occur: Anna, Kyoto Transcribe:", audio_part(0.9, 1))]], 40)
    assert client.audio.transcriptions.create(model="tiny", file=file, prompt="Anna, Kyoto").text == biased


def test_long_audio_is_transcribed_part_by_part(client: openai.OpenAI, model: VTBlenderModel) -> None:
    samples = speech(34.0, 4)
    samples[29 * 16000 : 29 * 16000 + 4000] = 0
    chat = as_conversations([[user("Transcribe:", {"type": "audio", "audio": samples, "sampling_rate": 16000})]])
    parts = split_long_audio(chat, 8.0, 16000).conversations
    texts = [model.generate([part], 40)[0] for part in parts]
    file = ("speech.wav", wav_bytes(samples, subtype="FLOAT"))
    found = client.audio.transcriptions.create(model="tiny", file=file, response_format="verbose_json")
    assert [segment.text for segment in found.segments] == texts
    assert [segment.start for segment in found.segments][1:] == [segment.end for segment in found.segments][:-1]
    assert found.segments[-1].end == pytest.approx(34.0, abs=1e-3)
    srt = client.audio.transcriptions.create(model="tiny", file=file, response_format="srt")
    assert srt.startswith("1\n00:00:0")
    assert srt.count(" --> ") == sum(map(bool, texts))
    whole = client.audio.transcriptions.create(model="tiny", file=file).text
    wanted = model.generate(chat, 40, part_secs=30.0)[0]
    assert whole == wanted


def test_models_health_and_metrics(client: openai.OpenAI, address: str) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "vtblender_nemo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    client.chat.completions.create(**asked("hello"))
    text = httpx.get(f"{address}/metrics").text
    assert 'vtblender_requests_total{route="/v1/chat/completions",status="200"}' in text
    (counted,) = [line for line in text.splitlines() if line.startswith("vtblender_first_token_seconds_count")]
    assert float(counted.split()[1]) >= 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_audio_is_a_bad_request(client: openai.OpenAI, name: str) -> None:
    data = HOSTILE[name][0]
    if name == "too long":
        data = wav_bytes(torch.zeros(61 * 16000).numpy())
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked("hello", input_audio(data)))
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model="tiny", file=("speech.wav", data))
    assert client.chat.completions.create(**asked("hello")).choices[0].message.content


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty turn"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "wrong role"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "role"),
        (asked("hello", {"type": "image_url", "image_url": {"url": "x"}}), "content"),
        (asked("hello", {"type": "audio", "audio": "/etc/passwd"}), "content"),
        (asked("hello", input_audio(b"")) | {"max_tokens": 0}, "max_tokens"),
        (asked("hello", temperature=9), "temperature"),
        (asked("hello", n=2), "n is not supported"),
        (asked("hello", tools=[{"type": "function"}]), "tools is not supported"),
        (asked("hello", response_format={"type": "json_object"}), "response_format is not supported"),
        (asked({"type": "input_audio", "input_audio": {"data": "/etc/passwd", "format": "wav"}}), "base64"),
        (asked("far too long " * 2000), "longer than the LLM's context"),
        (asked("<unused0>"), "control token|unused0"),
        (asked("hello", stop=["a", "b", "c", "d", "e"]), "at most 4 texts"),
        (asked("hello", top_k=5), "top_k is not supported"),
        ({"messages": [{"role": "user", "content": [0] * 200_000}]}, "messages"),
        (asked(*[input_audio(LONG)] * 3), "too long"),  # of 25 s each, where 60 s are allowed
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 40},
            "too many messages",
        ),
    ],
)
def test_what_cannot_be_answered_is_said(address: str, body: dict[str, Any], said: str) -> None:
    response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert any(word in response.json()["error"]["message"] for word in said.split("|"))


def test_a_key_is_wanted_where_one_is_set(engine: Engine) -> None:
    with served(engine, api_key="secret") as address:
        body = asked("hello")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            response = httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers)
            assert response.status_code == 401
        assert httpx.get(f"{address}/metrics").status_code == 401
        assert httpx.get(f"{address}/health").status_code == 200
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret")
        assert client.chat.completions.create(**body).choices


def test_addresses_that_others_reach_need_a_key() -> None:
    with pytest.raises(ConfigError, match="key is empty"):
        ServerConfig("tiny", host="0.0.0.0", api_key=" ")
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(ConfigError, match="needs a key"):
            ServerConfig("tiny", host=host)
        assert ServerConfig("tiny", host=host, api_key="secret").host == host
    assert [ServerConfig("tiny", host=host).host for host in ("127.0.0.1", "localhost", "::1")]


def test_pages_from_elsewhere_are_refused(address: str) -> None:
    """A name that somebody else's DNS gives to this machine."""
    response = httpx.get(f"{address}/health", headers={"Host": "evil.example:8000"})
    assert response.status_code == 400


def test_large_bodies_are_refused(engine: Engine) -> None:
    with served(engine, max_body_bytes=10_000) as address:
        url = f"{address}/v1/chat/completions"
        assert httpx.post(url, json=asked("hello")).status_code == 200
        response = httpx.post(url, json=asked("hello" * 3000))
        assert response.status_code == 413
        assert "10000 bytes" in response.json()["error"]["message"]

        def unannounced() -> Iterator[bytes]:
            yield b'{"messages": ['
            for _ in range(40):
                yield b'{"role": "user", "content": "hello"},' * 10

        response = httpx.post(url, content=unannounced(), headers={"Content-Type": "application/json"})
        assert response.status_code == 413


def test_half_a_character_is_a_bad_request(address: str) -> None:
    content = b'{"messages": [{"role": "user", "content": "half \\ud800"}]}'
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{address}/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400
    assert "half of a character" in response.json()["error"]["message"]


def test_a_body_that_does_not_come_on_is_given_up(engine: Engine) -> None:
    with served(engine, body_secs=0.2) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_long_audio_waits_for_room_in_the_queue(model: VTBlenderModel) -> None:
    engine = Engine(model, EngineConfig(max_rows=1, queue_size=1))
    with served(engine, max_new_tokens=4) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        file = ("speech.wav", wav_bytes(speech(34.0, 4)))
        found = client.audio.translations.create(model="tiny", file=file, response_format="verbose_json")
        assert len(found.segments) == 5
        assert found.task == "translate"
    engine.close()


def test_who_leaves_before_the_first_token_is_not_answered(model: VTBlenderModel, talk: list[Any]) -> None:
    """The engine's thread is held, so that neither stream nor transcript has begun when their clients leave."""
    engine = Engine(model, EngineConfig(max_rows=1))
    is_held, goes_on = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        is_held.set()
        assert goes_on.wait(60)

    with served(engine) as address:
        engine.submit(from_messages([user("hello")]).turns, Sampling(NEW), hold)
        assert is_held.wait(60)
        requests = [
            {"url": f"{address}/v1/chat/completions", "json": asked(*talk, stream=True)},
            {"url": f"{address}/v1/audio/transcriptions", "files": {"file": WAV}, "data": {"model": "tiny"}},
        ]
        for request in requests:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(**request, timeout=httpx.Timeout(60, read=0.5))
        waiting = list(engine._waiting)
        assert len(waiting) == 2
        assert all(request._cancelled.wait(60) for request in waiting)
        goes_on.set()
    engine.close()


def test_a_full_queue_says_when_to_come_again(model: VTBlenderModel) -> None:
    """One answer is in the making for as long as its listener holds the engine's thread, and one waits."""
    engine = Engine(model, EngineConfig(max_rows=1, queue_size=1))
    is_held, goes_on = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        is_held.set()
        assert goes_on.wait(60)

    turns = from_messages([user("hello")]).turns
    with served(engine) as address:
        engine.submit(turns, Sampling(NEW), hold)
        assert is_held.wait(60)
        waiting = engine.submit(turns, Sampling(NEW), lambda event: None)
        response = httpx.post(f"{address}/v1/chat/completions", json=asked("hello"), timeout=60)
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "1"
        waiting.cancel()
        goes_on.set()
        assert httpx.post(f"{address}/v1/chat/completions", json=asked("hello"), timeout=60).status_code == 200
    engine.close()


def test_a_client_that_leaves_frees_its_place(
    model: VTBlenderModel, talk: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, EngineConfig(max_rows=1))
    ends: list[Event] = []
    is_over = threading.Event()
    submit = engine.submit

    def watched(turns: Any, sampling: Sampling, listener: Any, **more: Any) -> Any:
        def listen(event: Event) -> None:
            listener(event)
            if not isinstance(event, Piece):
                ends.append(event)
                is_over.set()

        return submit(turns, sampling, listen, **more)

    monkeypatch.setattr(engine, "submit", watched)
    with served(engine, max_new_tokens=900) as address:
        body = asked(*talk, stream=True, max_tokens=900, temperature=2.0, seed=1)
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
        assert is_over.wait(60)
    engine.close()
    assert isinstance(ends[0], Done)
    assert ends[0].reason is Reason.CANCELLED
