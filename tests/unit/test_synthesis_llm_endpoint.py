from __future__ import annotations

import itertools
import json
import pickle
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from tests.helpers.chat_server import ChatServer, FakeClock, Response
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.llm.clients import Decoding
from vtblender_nemo.synthesis.llm.endpoint import EndpointError, EndpointLLM, Pace, read_extra_body
from vtblender_nemo.synthesis.work import Refused

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


def prompts(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def text_of(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"]


def llm(server: ChatServer, **options: Any) -> EndpointLLM:
    return EndpointLLM(**{"model": "m", "base_url": server.url, **options})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def scripted(*responses: str | Response):
    """Answers with these in turn, then echoes."""
    left = list(responses)
    return lambda request: left.pop(0) if left else f"echo {text_of(request)}"


def test_answers_come_in_the_order_of_the_prompts(clock):
    """The later prompts are answered first: each waits for its successor."""
    done = [threading.Event() for _ in range(5)]

    def answer(request):
        number = int(text_of(request))
        assert number == 4 or done[number + 1].wait(10)
        done[number].set()
        return f"answer {number}"

    with ChatServer(answer) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts(*"01234")) == [f"answer {n}" for n in range(5)]


def test_what_is_sent(clock, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with ChatServer(scripted()) as server:
        asked = llm(server, decoding=Decoding(33, 0.5, 0.9, seed=4), api_key_env="MY_KEY")
        client = asked.open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a", "b", "a")) == ["echo a", "echo b", "echo a"]
    first, second, third = sorted(server.requests, key=text_of)
    assert {name: first[name] for name in ("model", "max_tokens", "temperature", "top_p")} == {
        "model": "m",
        "max_tokens": 33,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    assert first["messages"] == [{"role": "user", "content": "a"}]
    assert first["seed"] == second["seed"] != third["seed"]
    assert "response_format" not in first
    assert server.keys == ["Bearer secret"] * 3
    assert "secret" not in json.dumps(asked.settings()) + repr(asked) + repr(pickle.dumps(asked))


def test_a_pause_that_the_server_asks_for_is_kept(clock):
    with ChatServer(scripted(Response(status=429, headers={"Retry-After": "7"}))) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a")) == ["echo a"]
    assert clock.slept == [7.0]
    assert len(server.requests) == 2


def test_a_pause_until_a_date(clock):
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    with ChatServer(scripted(Response(status=503, headers={"Retry-After": date}))) as server:
        assert llm(server).open(now=clock.now, sleep=clock.sleep).complete(prompts("a")) == ["echo a"]
    assert clock.slept == [pytest.approx(90, abs=20)]


def test_a_pause_holds_for_all_requests(clock):
    pace = Pace(None, clock.now, clock.sleep)
    pace.hold(30)
    pace.wait()
    pace.wait()
    assert clock.slept == [30.0]


def test_a_pause_beyond_the_limit_stops_the_job(clock):
    with ChatServer(scripted(Response(status=429, headers={"Retry-After": "301"}))) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        with pytest.raises(EndpointError, match=r"301 s.*at most 300 s"):
            client.complete(prompts("a"))
    assert clock.slept == []


FAILURES = {
    "500": Response(status=500),
    "529": Response(status=529),
    "408": Response(status=408),
    "broken JSON": Response(body='{"choices": [{"mess'),
    "a page of a proxy": Response(body="<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
    "no choices": Response(body='{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'),
    "429 without a pause": Response(status=429),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_that_pass_are_tried_again_after_longer_and_longer_waits(clock, name):
    with ChatServer(scripted(*[FAILURES[name]] * 4)) as server:
        client = llm(server, max_attempts=5).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a")) == ["echo a"]
    assert len(server.requests) == 5
    assert len(clock.slept) == 4
    for waited, longest in zip(clock.slept, (1, 2, 4, 8), strict=True):
        assert longest / 2 <= waited <= longest


def test_retries_are_told_by_kind_at_once_and_then_once_a_minute(clock, caplog):
    failures = [Response(status=429, headers={"Retry-After": "20"})] * 4 + [Response(status=500)] * 2
    with ChatServer(scripted(*failures, "fine", Response(body="<html>"))) as server:
        client = llm(server, max_attempts=7).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a")) == ["fine"]
        clock.sleep(60)
        assert client.complete(prompts("b")) == ["echo b"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "requests that failed and are made again: 1 (429: 1)",
        "requests that failed and are made again: 4 (429: 4)",
        "requests that failed and are made again: 7 (429: 4, 500: 2, no answer of the chat API: 1)",
    ]


def test_a_server_that_is_too_slow_is_told(clock, caplog):
    asked = threading.Event()

    def answer(request):
        slow = not asked.is_set()
        asked.set()
        if slow:
            done.wait(10)
        return "fine"

    done = threading.Event()
    with ChatServer(answer) as server:
        client = llm(server, timeout_secs=0.2).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a")) == ["fine"]
        done.set()
    assert "made again: 1 (time-out: 1)" in caplog.text


def test_no_server(clock):
    with ChatServer(scripted()) as server:
        pass
    client = llm(server, max_attempts=2).open(now=clock.now, sleep=clock.sleep)
    with pytest.raises(EndpointError, match="failed 2 times"):
        client.complete(prompts("a"))
    assert len(clock.slept) == 1


def test_failure_after_all_attempts_stops_everything_and_can_be_tried_again(clock):
    broken = True

    def answer(request):
        return Response(status=500) if broken and text_of(request) == "3" else "fine"

    with ChatServer(answer) as server:
        client = llm(server, max_attempts=3, concurrency=2).open(now=clock.now, sleep=clock.sleep)
        with pytest.raises(EndpointError, match=r"failed 3 times.*the same command goes on") as error:
            client.complete(prompts(*map(str, range(50))))
        assert not isinstance(error.value, DataError)  # which would cost rows
        assert type(pickle.loads(pickle.dumps(error.value))) is EndpointError
        assert server.prompts.count("3") == 3
        broken = False
        assert client.complete(prompts("3", "4")) == ["fine", "fine"]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response(status=401), "MY_KEY"),
        (Response(status=403), "MY_KEY"),
        (Response(status=404, error={"message": "no such model"}), "no such model.*--model"),
        (Response(status=429, error={"message": "pay", "code": "insufficient_quota"}), "pay"),
    ],
)
def test_what_no_retry_mends_stops_at_once(clock, response, message):
    with ChatServer(lambda _: response) as server:
        client = llm(server, api_key_env="MY_KEY").open(now=clock.now, sleep=clock.sleep)
        with pytest.raises(EndpointError, match=message):
            client.complete(prompts("a"))
    assert len(server.requests) == 1
    assert clock.slept == []


def test_answers_are_held_to_the_schema_where_the_server_can(clock):
    with ChatServer(scripted()) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        client.complete(prompts("a", "b", "c"), json_schema=SCHEMA)
    formats = [request["response_format"] for request in server.requests]
    assert formats == [{"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}] * 3


def test_a_server_without_schemas_is_asked_once(clock, caplog):
    def answer(request):
        if "response_format" in request:
            return Response(status=400, error={"message": "response_format is not supported"})
        return f"echo {text_of(request)}"

    with ChatServer(answer) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a", "b"), json_schema=SCHEMA) == ["echo a", "echo b"]
        assert client.complete(prompts("c"), json_schema={"type": "object"}) == ["echo c"]
    assert ["response_format" in request for request in server.requests] == [True, False, False, False]
    assert "response_format is not supported" in caplog.text


def test_one_bad_prompt_costs_itself_and_tells_nothing_of_schemas(clock):
    def answer(request):
        if text_of(request) == "bad":
            return Response(status=400, error={"message": "too long"})
        return "fine"

    with ChatServer(answer) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        bad, *rest = client.complete(prompts("bad", "a", "b", "bad"), json_schema=SCHEMA)
    assert isinstance(bad, Refused)
    assert bad.reason == "request_refused"
    assert "too long" in bad.detail
    assert rest == ["fine", "fine", bad]
    assert ["response_format" in request for request in server.requests] == [True, False, True, True, True]


def test_a_server_that_refuses_everything_stops_the_job(clock):
    with ChatServer(lambda _: Response(status=400, error={"message": "unknown field seed"})) as server:
        client = llm(server, concurrency=1).open(now=clock.now, sleep=clock.sleep)
        with pytest.raises(EndpointError, match=r"refuses every request.*unknown field seed"):
            client.complete(prompts(*map(str, range(100))))
    assert len(server.requests) == 16


@pytest.mark.parametrize(
    ("response", "reason", "detail"),
    [
        (Response('{"pairs": [{"ques', finish="length"), "reply_cut_off", '{"pairs": [{"ques'),
        (Response("x", finish="content_filter"), "reply_withheld", "content filter"),
        (Response(None), "reply_empty", ""),
        (Response(""), "reply_empty", ""),
    ],
)
def test_replies_that_are_not_whole(clock, response, reason, detail):
    with ChatServer(lambda _: response) as server:
        client = llm(server).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts("a")) == [Refused(reason, detail)]


def test_as_many_requests_at_once_as_allowed(clock):
    """Four requests wait for each other: with fewer at once nobody would be answered."""
    together = threading.Barrier(4)

    def answer(_):
        together.wait(timeout=20)
        return "fine"

    with ChatServer(answer) as server:
        client = llm(server, concurrency=4).open(now=clock.now, sleep=clock.sleep)
        assert client.complete(prompts(*map(str, range(12)))) == ["fine"] * 12
    assert server.most_at_once == 4


def test_rate_limit_counts_retries(clock):
    with ChatServer(scripted(*[Response(status=500)] * 2)) as server:
        client = llm(server, requests_per_minute=2, concurrency=1).open(now=clock.now, sleep=clock.sleep)
        client.complete(prompts("a", "b"))
    assert len(server.requests) == 4
    assert clock.time == pytest.approx(1000 + 3 * 30)


def test_fields_of_the_request_can_be_set_and_taken_out(clock):
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": None, "top_k": 3}
    with ChatServer(scripted()) as server:
        llm(server, extra_body=extra).open(now=clock.now, sleep=clock.sleep).complete(prompts("a"))
    (request,) = server.requests
    assert "max_tokens" not in request
    assert "seed" not in request
    assert (request["max_completion_tokens"], request["top_k"]) == (9, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "--base-url"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"requests_per_minute": 0}, "--requests-per-minute"),
        ({"extra_body": {"model": "other"}}, "--request-json"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        EndpointLLM(**{"model": "m", "base_url": "http://h/v1", **options})


def test_where_the_server_runs_is_no_part_of_the_job():
    def settings(**options):
        return EndpointLLM(**{"model": "m", "base_url": "http://a/v1", **options}).settings()

    same = settings(base_url="http://b/v1", concurrency=3, timeout_secs=5.0, max_attempts=9, api_key_env="X")
    assert same == settings()
    others = [{"model": "n"}, {"decoding": Decoding(seed=1)}, {"extra_body": {"top_k": 1}}]
    assert all(settings(**one) != settings() for one in others)
    assert json.loads(json.dumps(settings())) == settings()


def test_decoding_checks():
    for values in itertools.chain([(0,)], [(1, -0.1)], [(1, 0.0, 0.0)], [(1, 0.0, 1.1)], [(1, float("nan"))]):
        with pytest.raises(ConfigError):
            Decoding(*values)


def test_extra_fields_are_a_json_object():
    assert read_extra_body('{"seed": null, "top_k": 3}') == {"seed": None, "top_k": 3}
    for text in ("[1]", "{", "3"):
        with pytest.raises(ConfigError, match="--request-json"):
            read_extra_body(text)
