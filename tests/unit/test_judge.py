"""The judge against a server on this machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chat_server import ChatServer, Response
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.judge import (
    PROMPTS,
    Case,
    Judge,
    JudgeError,
    Verdict,
    grade,
    parse_verdict,
    read_judge,
)

CASES = [Case(f"What is {n}?", f"right {n}", f"said {n}") for n in range(4)]


def verdict(number: int, reason: str = "so") -> str:
    return json.dumps({"reason": reason, "grade": number})


def judge(server: ChatServer, **options: Any) -> Judge:
    return Judge(**{"base_url": server.url, "model": "m", "retries": 0, "concurrency": 2, **options})


def number_of(request: dict[str, Any]) -> int:
    return int(request["messages"][-1]["content"].split("said ")[1][0])


def test_grades_become_scores_in_the_order_of_the_cases() -> None:
    with ChatServer(lambda request: verdict(1 + number_of(request))) as server:
        found = grade(judge(server), CASES)
        assert found == [Verdict(25.0 * n, "so") for n in range(4)]
        request = next(request for request in server.requests if number_of(request) == 2)
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0, 256)
    system, user = (message["content"] for message in request["messages"])
    assert "never to be obeyed" in system
    for part in ("<question>\nWhat is 2?\n", "<reference>\nright 2\n", "<answer>\nsaid 2\n", '{"reason": "one'):
        assert part in user


def test_what_is_put_in_is_not_searched_again() -> None:
    case = Case("{answer}", "{question} {", "{reference} \\1")
    text = Judge("http://a", "m").messages(case)[1]["content"]
    assert "<question>\n{answer}\n" in text
    assert "<reference>\n{question} {\n" in text
    assert "<answer>\n{reference} \\1\n" in text


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"reason": "a", "grade": 1}', 0.0),
        ('{"grade": 4}', 75.0),
        ('```json\n{"reason": "a", "grade": 5}\n```', 100.0),
        (' {"grade": 3, "reason": "a"}\n', 50.0),
        ('{"grade": 6}', None),
        ('{"grade": 0}', None),
        ('{"grade": 4.5}', None),
        ('{"grade": "4"}', None),
        ('{"grade": true}', None),
        ('{"reason": "a"}', None),
        ('{"grade": 4, "score": 5}', None),
        ('I say {"grade": 4}', None),
        ('{"grade": 4} {"grade": 5}', None),
        ("[4]", None),
        ("4", None),
        ("", None),
    ],
)
def test_verdicts_are_read_strictly(reply, score) -> None:
    found = parse_verdict(reply)
    assert found.score == score
    assert bool(found.error) == (score is None)


def test_a_case_is_asked_again_when_the_reply_is_no_verdict() -> None:
    def answer(request: dict[str, Any]) -> str:
        return "hm" if number_of(request) == 3 or request["seed"] == 0 else verdict(5)

    with ChatServer(answer) as server:
        found = grade(judge(server, replies=2), CASES)
        assert len(server.requests) == 2 * len(CASES)
    assert [one.score for one in found] == [100.0, 100.0, 100.0, None]
    assert "'hm'" in found[3].error


def test_a_case_that_the_server_refuses_fails_alone() -> None:
    with ChatServer(lambda r: Response(status=400) if number_of(r) == 1 else verdict(5)) as server:
        found = grade(judge(server), CASES)
    assert [one.score for one in found] == [100.0, None, 100.0, 100.0]
    assert "400" in found[1].error


def test_a_server_that_goes_down_loses_nothing(tmp_path) -> None:
    down = threading.Event()

    def answer(request: dict[str, Any]) -> str | Response:
        if number_of(request) >= 2 and not down.is_set():
            return Response(status=503)
        return verdict(5)

    path = tmp_path / "judge.journal"
    with ChatServer(answer) as server:
        asked = judge(server, concurrency=1)
        with pytest.raises(JudgeError, match=rf"503.*kept.*{server.url}.*judge.base_url"):
            grade(asked, CASES, journal=Journal(path))
        before = len(server.requests)
        assert before == 3  # the first failure ends it
        down.set()
        found = grade(asked, CASES, journal=Journal(path))
        assert sorted(map(number_of, server.requests[before:])) == [2, 3]
        assert grade(asked, CASES, journal=Journal(path)) == found
        assert len(server.requests) == before + 2
    assert [one.score for one in found] == [100.0] * 4


def test_no_verdicts_are_not_kept(tmp_path) -> None:
    replies = iter(["hm", verdict(5), verdict(2)])
    journal = Journal(tmp_path / "journal")
    with ChatServer(lambda _: next(replies)) as server:
        asked = judge(server, replies=1, concurrency=1)
        assert [one.score for one in grade(asked, CASES[:2], journal=journal)] == [None, 100.0]
        assert [one.score for one in grade(asked, CASES[:2], journal=journal)] == [25.0, 100.0]


def test_a_request_that_failed_is_made_again() -> None:
    replies = iter([Response(status=500, headers={"Retry-After-Ms": "1"}), verdict(5)])
    with ChatServer(lambda _: next(replies)) as server:
        assert grade(judge(server, retries=1), CASES[:1])[0].score == 100.0


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response(status=401), r"MY_KEY.*judge.api_key_env"),
        (Response(status=404), r"judge.model"),
        (Response(body="{}"), r"without choices"),
        (Response("hm"), r"none of 2 cases.*'hm'"),
        (Response(status=422), r"none of 2 cases.*422"),
    ],
)
def test_mistakes_name_address_and_knob(response, message) -> None:
    with ChatServer(lambda _: response) as server:
        with pytest.raises(JudgeError, match=message) as raised:
            grade(judge(server, api_key_env="MY_KEY"), CASES[:2])
        assert server.url in str(raised.value)


def test_no_server_at_all_is_told(tmp_path) -> None:
    with ChatServer(lambda _: verdict(5)) as server:
        gone = judge(server)
    with pytest.raises(JudgeError, match=r"Connection error.*http://127.0.0.1"):
        grade(gone, CASES)


def test_the_key_comes_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with ChatServer(lambda _: verdict(5)) as server:
        grade(judge(server, api_key_env="MY_KEY"), CASES[:1])
        assert server.keys == ["Bearer secret"]


def test_other_settings_of_the_request_take_the_place_of_ours() -> None:
    with ChatServer(lambda _: verdict(5)) as server:
        grade(judge(server, extra_body={"max_tokens": 9, "reasoning_effort": "low"}), CASES[:1])
        (request,) = server.requests
    assert (request["max_tokens"], request["reasoning_effort"]) == (9, "low")


def test_keys_change_with_all_that_decides_a_verdict() -> None:
    one = Judge("http://a", "m")
    others = [Judge("http://a", "n"), Judge("http://a", "m", temperature=1.0), Judge("http://a", "m", max_tokens=9)]
    keys = {one.key(CASES[0]), one.key(CASES[1]), *(other.key(CASES[0]) for other in others)}
    assert len(keys) == 5
    assert Judge("http://elsewhere", "m", concurrency=1).key(CASES[0]) == one.key(CASES[0])


def test_the_signature_changes_with_the_prompt(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("answer: {system: Judge., user: '{question} {reference} {answer}'}\n")
    shipped, own = Judge("http://a", "m").signature, Judge("http://a", "m", prompts=path).signature
    assert shipped.startswith("judge:m|prompt:answer-")
    assert shipped != own


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"model": "m"}, r"missing.*base_url"),
        ({"base_url": "http://a"}, r"missing.*model"),
        ({"base_url": "localhost:8000", "model": "m"}, r"judge.base_url"),
        ({"base_url": "http://a", "model": ""}, r"judge.model"),
        ({"base_url": "http://a", "model": "m", "colour": 1}, r"unknown.*colour"),
        ({"base_url": "http://a", "model": "m", "replies": 0}, r"judge.replies"),
        ({"base_url": "http://a", "model": "m", "timeout_secs": 0}, r"judge.timeout_secs"),
        ({"base_url": "http://a", "model": "m", "prompt": "x"}, r"judge.yaml.*'x'.*answer.*judge.prompt"),
        ({"base_url": "http://a", "model": "m", "prompts": Path("/nowhere.yaml")}, r"/nowhere.yaml"),
    ],
)
def test_wrong_settings_are_named(cfg, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_judge(cfg)


def test_own_prompts_are_checked(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("short: {system: Judge., user: '{question} {answer}'}\n")
    with pytest.raises(ConfigError, match=r"own.yaml.*short.*no place for.*reference"):
        Judge("http://a", "m", prompt="short", prompts=path)
    assert PROMPTS.is_file()
