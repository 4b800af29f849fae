"""The command, from manifests to a source that trains, against a server that answers by rule."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import commands, models
from tests.helpers.chat_server import ChatServer, Response
from tests.helpers.commands import rejected
from tests.helpers.corpus import RATE, wav_bytes, write_jsonl, write_level, write_tar
from tests.helpers.synthesis_works import tree
from vtblender_nemo.common.conversation import Audio
from vtblender_nemo.data.weighted import read_sources

run = partial(commands.run, "synthesize_sqa")
PEOPLE = ["anna", "bert", "clara", "david", "emma", "frank", "greta", "hugo"]
PLACES = ["rome", "bonn", "lyon", "oslo", "kiev", "bath", "nice", "faro"]


def sentence(number: int) -> str:
    return f"{PEOPLE[number]} has lived in {PLACES[number]} since last winter"


def answers(request: dict[str, Any]) -> str | Response:
    """Reads the transcript between the dashes; knows by heart where Anna lives."""
    prompt = request["messages"][-1]["content"]
    if "you have not heard" in prompt:
        return '{"answer": "In Rome."}' if "anna" in prompt.lower() else '{"answer": "none"}'
    person, place = re.search(r"---\n(\w+) has lived in (\w+)", prompt).groups()
    if person == "bert":
        return "none"
    if person == "clara":
        return 'Sure: {"pairs": [{"question": "Where does Clara live?", "answer": "In Paris."}]}'
    if person == "david":
        return "I would rather not."
    pair = {"question": f"Where does {person.title()} live?", "answer": f"In {place.title()}."}
    return json.dumps({"pairs": [pair]})


@pytest.fixture
def manifest(tmp_path) -> Path:
    folder = tmp_path / "data"
    rows: list[Any] = []
    for number in range(8):
        write_level(folder / f"wav/{number}.wav", 0.1 * number)
        rows.append({"audio_filepath": f"wav/{number}.wav", "duration": 0.5, "text": sentence(number)})
    return Path(write_jsonl(folder / "asr.jsonl", [*rows, "{broken"]))


def flags_of(manifest: Path, server: ChatServer, output: Path, *more: Any) -> list[Any]:
    llm = ["--base-url", server.url, "--model", "rule-1"]
    shards = ["--rows-per-shard", 3, "--batch-rows", 2, "--name", "sqa"]
    return ["--input", manifest, "--output-dir", output, *llm, *shards, *more]


def examples(output: Path) -> dict[str, tuple[str, str, float]]:
    """Question, answer and level of the audio of every conversation that training would read, by id."""
    found = {}
    for weighted in read_sources(output / "input_cfg.yaml", sampling_rate=RATE):
        for index in range(len(weighted.source)):
            conversation = weighted.source.conversation(index, random.Random(0))
            user, _ = conversation.turns
            (audio,) = user.audios
            text = " ".join(part.text for part in user.parts if not isinstance(part, Audio))
            found[conversation.id] = (text, conversation.reference, float(audio.cut.load_audio().max()))
    return found


def test_from_a_manifest_to_examples(manifest, tmp_path):
    output = tmp_path / "out"
    with ChatServer(answers) as server:
        result = run(*flags_of(manifest, server, output, "--check-blind"))
    assert result.exit_code == 0, result.output
    by_answer = {answer: (question, level) for question, answer, level in examples(output).values()}
    assert set(by_answer) == {f"In {PLACES[number].title()}." for number in (4, 5, 6, 7)}
    for number in (4, 5, 6, 7):
        question, level = by_answer[f"In {PLACES[number].title()}."]
        assert f"Where does {PEOPLE[number].title()} live?" in question
        assert level == pytest.approx(0.1 * number, abs=1e-3)
    assert rejected(output) == {
        "asr-1": "answerable_without_recording",
        "asr-2": "no_question",
        "asr-3": "answer_not_grounded",
        "asr-4": "reply_not_json",
        "asr-9": "bad_row",
    }
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["rows"], summary["made"]) == (9, 4)
    assert "4 rows made of 9" in result.output
    first = json.loads((output / "shard_000001/unique.jsonl").read_text().splitlines()[0])
    assert first["provenance"].pop("prompt_version").startswith("2-")
    assert first == {
        **{"audio_filepath": "wav/4.wav", "duration": 0.5, "text": sentence(4), "id": "asr-5-q0"},
        **{"question": "Where does Emma live?", "answer": "In Kiev.", "answerable": True},
        "provenance": {
            **{"source": "asr-5", "place": f"{manifest}:5", "engine": "openai", "model": "rule-1", "seed": 0},
        },
    }


class Failing:
    """Answers as `answers`, but fails where Hugo is spoken of until it is repaired."""

    repaired = False

    def __call__(self, request: dict[str, Any]) -> str | Response:
        fails = not self.repaired and "hugo" in request["messages"][-1]["content"]
        return Response(status=503) if fails else answers(request)


def test_a_job_whose_endpoint_failed_goes_on(manifest, tmp_path):
    failing = Failing()
    with ChatServer(failing) as server:
        flags = flags_of(manifest, server, tmp_path / "out", "--max-attempts", 1, "--check-blind")
        stopped = run(*flags)
        assert stopped.exit_code == 2
        assert "error: the endpoint failed 1 times" in stopped.output
        assert not (tmp_path / "out/summary.json").exists()
        asked = Counter(server.prompts)
        failing.repaired = True
        assert run(*flags).exit_code == 0
        again = Counter(server.prompts) - asked
        assert run(*flags_of(manifest, server, tmp_path / "whole", "--check-blind")).exit_code == 0
    assert not any("anna" in prompt or "emma" in prompt for prompt in again)  # of whole shards
    assert any("hugo" in prompt for prompt in again)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.slow  # every worker is a Python of its own
def test_workers_change_no_byte_and_tell_why_they_stop(manifest, tmp_path):
    failing = Failing()
    with ChatServer(failing) as server:
        drawn = ["--kinds", "all", "--unanswerable", 0.3]
        flags = flags_of(manifest, server, tmp_path / "two", "--max-attempts", 1, "--workers", 2, *drawn)
        stopped = run(*flags)
        assert stopped.exit_code == 2
        assert "error: the endpoint failed 1 times" in stopped.output
        failing.repaired = True
        assert run(*flags).exit_code == 0
        assert run(*flags_of(manifest, server, tmp_path / "one", *drawn)).exit_code == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_tars_stay_where_they_are(tmp_path):
    manifests = []
    for shard in range(2):
        names = [f"{number}.wav" for number in range(4 * shard, 4 * shard + 4)]
        write_tar(
            tmp_path / f"in/audio_{shard}.tar",
            {name: wav_bytes(np.full(8000, 0.1 * int(name[0]), np.float32)) for name in names},
        )
        rows = [{"audio_filepath": name, "duration": 0.5, "text": sentence(int(name[0]))} for name in names]
        manifests.append(write_jsonl(tmp_path / f"in/asr_{shard}.json", rows))
    with ChatServer(answers) as server:
        flags = flags_of(tmp_path / "in/asr__OP_0..1_CL_.json", server, tmp_path / "out")
        result = run(*flags, "--tar", tmp_path / "in/audio__OP_0..1_CL_.tar")
    assert result.exit_code == 0, result.output
    found = examples(tmp_path / "out")
    levels = {answer: level for _, answer, level in found.values()}
    assert levels == {f"In {PLACES[n].title()}.": pytest.approx(0.1 * n, abs=1e-3) for n in (0, 4, 5, 6, 7)}
    assert all("Where does" in question for question, _, _ in found.values())


def test_neighbours_are_asked_about_as_one_span(tmp_path):
    write_level(tmp_path / "talk.wav", 0.5, secs=4.0)
    spans = [(0.0, 1.5, 4), (2.0, 1.5, 5)]
    rows = [
        {"audio_filepath": "talk.wav", "offset": offset, "duration": secs, "text": sentence(number)}
        for offset, secs, number in spans
    ]
    manifest = write_jsonl(tmp_path / "asr.jsonl", rows)
    with ChatServer(answers) as server:
        result = run(*flags_of(Path(manifest), server, tmp_path / "out", "--utterances", 2))
        assert result.exit_code == 0, result.output
        assert [sentence(4) in prompt and sentence(5) in prompt for prompt in server.prompts] == [True]
    (row,) = [json.loads(line) for line in (tmp_path / "out/shard_000000/unique.jsonl").read_text().splitlines()]
    assert (row["offset"], row["duration"], row["provenance"]["sources"]) == (0.0, 3.5, ["asr-1", "asr-2"])


def test_a_local_model_answers_too(manifest, tmp_path):
    folder = models.llm_folder(tmp_path, max_position_embeddings=8192)
    flags = ["--input", manifest, "--output-dir", tmp_path / "out", "--model", folder, "--max-new-tokens", 5]
    result = run(*flags, "--device", "cpu", "--dtype", "float32")
    assert result.exit_code == 1, result.output  # its weights are random, so it writes no JSON
    reasons = set(rejected(tmp_path / "out").values()) - {"bad_row"}
    assert reasons <= {"reply_cut_off", "reply_not_json"}
    assert len(rejected(tmp_path / "out")) == 9


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kinds", "riddle"], "unknown kind of question"),
        (["--request-json", "{"], "--request-json"),
        (["--utterances", "3"], "no two rows can be joined"),
        (["--tar", "none.tar"], "none.tar"),
        (["--language", "xx"], "--language"),
        (["--timeout", "0"], "--timeout"),
        (["--requests-per-minute", "nan"], "--requests-per-minute"),
        (["--min-transcript-words", "20", "--max-transcript-words", "10"], "20 to 10 words"),
        (["--min-question-words", "9", "--max-question-words", "8"], "9 to 8 words"),
        (["--min-agreement", "0"], "--min-agreement"),
        (["--min-language-probability", "1.5"], "--min-language-probability"),
        (["--language", "fo", "--unanswerable", "0.1"], "no_answer in the file of --prompts"),
    ],
)
def test_mistakes_end_with_two_and_a_line(manifest, tmp_path, more, message):
    with ChatServer(answers) as server:
        result = run(*flags_of(manifest, server, tmp_path / "out", *more))
        assert server.requests == []
    assert result.exit_code == 2
    assert "error: " in result.output
    assert message in result.output.replace("\n", " ")


def test_a_key_that_is_refused_is_named(manifest, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with ChatServer(lambda _: Response(status=401, error={"message": "no key"})) as server:
        result = run(*flags_of(manifest, server, tmp_path / "out", "--api-key-env", "TEST_KEY"))
    assert result.exit_code == 2
    assert "TEST_KEY" in result.output


def test_another_prompt_is_another_job(manifest, tmp_path):
    with ChatServer(answers) as server:
        assert run(*flags_of(manifest, server, tmp_path / "out")).exit_code == 0
        result = run(*flags_of(manifest, server, tmp_path / "out", "--questions", 2))
    assert result.exit_code == 2
    assert "(change it with: --questions (work.options.questions), or --output-dir)" in result.output.replace("\n", " ")


def test_help_shows_an_example():
    assert "python examples/synthesize_sqa.py --input" in run("--help").output
