"""The command, from a manifest to an entry of a blend: with a server that answers by rule, and with a model that runs here."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.helpers import commands, models
from tests.helpers.chat_server import ChatServer, Response
from tests.helpers.commands import rejected
from tests.helpers.corpus import wav_bytes, write_jsonl, write_level, write_tar
from tests.helpers.synthesis_works import tree
from vtblender_nemo.common.llm_fingerprint import folder_fingerprint
from vtblender_nemo.synthesis.llm.local import LocalClient

run = partial(commands.run, "synthesize_imitation")
PEOPLE = ["anna", "bert", "clara", "david", "emma", "frank", "greta", "hugo"]


def sentence(number: int) -> str:
    return f"{PEOPLE[number]} has lived in oslo since last winter"


def answers(request: dict[str, Any]) -> str | Response:
    """Says its prompt again, but for Bert and Clara."""
    prompt = request["messages"][-1]["content"]
    if "bert" in prompt:
        return Response("Bert has", finish="length")
    return "The text is about Clara." if "clara" in prompt else f"You said: {prompt}"


@pytest.fixture
def manifest(tmp_path) -> Path:
    folder = tmp_path / "data"
    rows: list[Any] = []
    for number in range(8):
        write_level(folder / f"wav/{number}.wav", 0.1)
        rows.append({"audio_filepath": f"wav/{number}.wav", "duration": 0.5, "text": sentence(number)})
    return Path(write_jsonl(folder / "asr.jsonl", [*rows, "{broken", {"audio_filepath": "wav/0.wav"}]))


@pytest.fixture
def bank(tmp_path) -> Path:
    path = tmp_path / "bank.yaml"
    path.write_text(
        'version: "1"\n'
        "tasks:\n"
        '  repeat: {wordings: {order: "Repeat: {audio}", after: "{audio} Again."}}\n'
        '  title: {wordings: {order: "Title: {audio}"}}\n'
        '  say_in: {languages: [de], wordings: {order: "In {language}: {audio}"}}\n'
    )
    return path


def flags_of(manifest: Path, output: Path, bank: Path, *more: Any) -> list[Any]:
    shards = ["--rows-per-shard", 3, "--batch-rows", 2, "--name", "imitation", "--tasks-per-utterance", 2]
    return ["--input", manifest, "--output-dir", output, "--prompts", bank, *shards, *more]


def asking(server: ChatServer, weights: Path) -> list[Any]:
    return ["--base-url", server.url, "--model", "rule-1", "--weights", weights]


def rows_of(output: Path) -> list[dict[str, Any]]:
    files = sorted(output.glob("shard_*/manifest.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_from_a_manifest_to_targets(manifest, tmp_path, bank, gemma):
    output = tmp_path / "out"
    with ChatServer(answers) as server:
        result = run(*flags_of(manifest, output, bank, *asking(server, gemma), "--hold-out", "repeat/after"))
        prompts = Counter(server.prompts)
    assert result.exit_code == 0, result.output
    rows = rows_of(output)
    assert len(rows) == 12
    assert "12 rows made of 10" in result.output
    wordings = {"repeat": "Repeat: {audio}", "title": "Title: {audio}", "say_in_de": "In German: {audio}"}
    for row in rows:
        assert row["prompt"] == wordings[row["task"]]
        read = row["prompt"].replace("{audio}", row["text"])
        assert row["answer"] == f"You said: {read}"
        assert prompts[read] == 1
        assert row["id"] == f"{row['provenance']['source']}-{row['task']}"
        assert row["provenance"]["model"] == "rule-1"
    assert rejected(output) == {
        **{"asr-2": "reply_cut_off", "asr-3": "answer_speaks_of_a_text", "asr-9": "bad_row", "asr-10": "no_transcript"},
    }
    (entry,) = yaml.safe_load((output / "input_cfg.yaml").read_text())
    assert entry == {
        **{"name": "imitation", "type": "imitation", "audio_dir": "../data"},
        "manifest_filepath": "shard__OP_000000..000003_CL_/manifest.jsonl",
        "llm_fingerprint": folder_fingerprint(gemma, knob=""),
    }


def test_a_job_whose_endpoint_failed_goes_on(manifest, tmp_path, bank, gemma):
    repaired = False

    def failing(request: dict[str, Any]) -> str | Response:
        fails = not repaired and "hugo" in request["messages"][-1]["content"]
        return Response(status=503) if fails else answers(request)

    with ChatServer(failing) as server:
        more = [*asking(server, gemma), "--max-attempts", 1]
        flags = flags_of(manifest, tmp_path / "out", bank, *more)
        stopped = run(*flags)
        assert stopped.exit_code == 2
        assert "error: the endpoint failed 1 times" in stopped.output
        asked = Counter(server.prompts)
        repaired = True
        assert run(*flags).exit_code == 0
        again = Counter(server.prompts) - asked
        assert run(*flags_of(manifest, tmp_path / "whole", bank, *more)).exit_code == 0
    assert again
    assert not any("anna" in prompt for prompt in again)  # of a whole shard
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_local_model_that_was_killed_goes_on(manifest, tmp_path, bank, monkeypatch):
    """Each in its turn: killed at its third batch, gone on with, and never stopped."""
    folder = models.talking_llm_folder(tmp_path)
    more = ["--model", folder, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 24]
    flags = flags_of(manifest, tmp_path / "out", bank, *more)
    complete, batches = LocalClient.complete, iter(range(100))

    def dying(self: LocalClient, prompts: Any, **kwargs: Any) -> Any:
        if next(batches) == 2:
            raise SystemExit(9)
        return complete(self, prompts, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LocalClient, "complete", dying)
        assert run(*flags).exit_code == 9
    assert (tmp_path / "out/shard_000000").is_dir()
    assert not (tmp_path / "out/shard_000001").exists()
    result = run(*flags)
    assert result.exit_code == 0, result.output
    assert run(*flags_of(manifest, tmp_path / "whole", bank, *more)).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert rows_of(tmp_path / "out")
    (entry,) = yaml.safe_load((tmp_path / "out/input_cfg.yaml").read_text())
    assert entry["llm_fingerprint"] == folder_fingerprint(folder, knob="")
    drawn = run(*flags, "--temperature", 1.0)
    assert drawn.exit_code == 2
    assert "--temperature (work.llm.temperature)" in drawn.output.replace("\n", " ")


def test_tars_stay_where_they_are(tmp_path, bank, gemma):
    write_tar(tmp_path / "in/audio.tar", {f"{n}.wav": wav_bytes(np.zeros(8000, np.float32)) for n in (0, 4)})
    rows = [{"audio_filepath": f"{number}.wav", "duration": 0.5, "text": sentence(number)} for number in (0, 4)]
    manifest = Path(write_jsonl(tmp_path / "in/asr.json", rows))
    with ChatServer(answers) as server:
        flags = flags_of(manifest, tmp_path / "out", bank, *asking(server, gemma), "--tar", tmp_path / "in/audio.tar")
        result = run(*flags)
    assert result.exit_code == 0, result.output
    assert [row["audio_filepath"] for row in rows_of(tmp_path / "out")] == ["0.wav", "0.wav", "4.wav", "4.wav"]
    (entry,) = yaml.safe_load((tmp_path / "out/input_cfg.yaml").read_text())
    assert (entry["type"], entry["tarred_audio_filepaths"]) == ("imitation", ["../in/audio.tar"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "sing"], "no such task or wording; found 'sing'"),
        (["--tasks", "repeat=much"], "weight is no number; found 'repeat=much'"),
        (["--hold-out", "repeat/loud"], "--hold-out"),
        (["--hold-out", "*"], "all tasks are held out"),
        (["--tasks-per-utterance", "4"], "expected at most 3: repeat, title, say_in_de"),
        (["--prompts", "conf/prompts/asr.yaml"], "asr.yaml: unknown key; found 'asr'"),
        (["--language", "xx"], "--language"),
        (["--temperature", "1", "--top-p", "0"], "--top-p"),
        (["--weights", "none"], "'none'; expected a Hugging Face folder"),
    ],
)
def test_mistakes_end_with_two_and_a_line(manifest, tmp_path, bank, gemma, more, message):
    with ChatServer(answers) as server:
        result = run(*flags_of(manifest, tmp_path / "out", bank, *asking(server, gemma), *more))
        assert server.requests == []
    assert result.exit_code == 2
    assert "error: " in result.output
    assert message in result.output.replace("\n", " ")


def test_an_endpoint_has_to_name_its_weights(manifest, tmp_path, bank):
    with ChatServer(answers) as server:
        result = run(*flags_of(manifest, tmp_path / "out", bank, "--base-url", server.url, "--model", "rule-1"))
        assert server.requests == []
    assert result.exit_code == 2
    assert "imitation targets must come from the LLM that is trained" in result.output
    assert "--weights" in result.output


def test_another_llm_or_another_choice_is_another_job(manifest, tmp_path, bank, gemma):
    other = models.llm_folder(tmp_path, "gemma", initializer_range=0.2)
    with ChatServer(answers) as server:
        assert run(*flags_of(manifest, tmp_path / "out", bank, *asking(server, gemma))).exit_code == 0
        changed = run(*flags_of(manifest, tmp_path / "out", bank, *asking(server, other)))
        chosen = run(*flags_of(manifest, tmp_path / "out", bank, *asking(server, gemma), "--tasks", "*,title=2"))
    assert (changed.exit_code, chosen.exit_code) == (2, 2)
    assert "--model or --weights (work.llm_fingerprint)" in changed.output.replace("\n", " ")
    assert "--tasks or --hold-out (work.tasks.title.weight)" in chosen.output.replace("\n", " ")


def test_rows_for_a_test_tell_how_far_they_lie_from_training(manifest, tmp_path, bank, gemma):
    trained, output = tmp_path / "trained", tmp_path / "test"
    with ChatServer(answers) as server:
        asked = asking(server, gemma)
        assert run(*flags_of(manifest, trained, bank, *asked, "--hold-out", "say_in_de,repeat/after")).exit_code == 0
        flags = flags_of(manifest, output, bank, *asked, "--tasks-per-utterance", 3, "--trained-on", trained)
        assert run(*flags).exit_code == 0
        found = {row["prompt"]: (row["generalisation"], row["wording_distance"]) for row in rows_of(output)}
        assert "generalisation" not in rows_of(trained)[0]
        before = tree(output)
        assert run(*flags).exit_code == 0
        assert tree(output) == before
        (trained / "shard_000000/manifest.jsonl").write_text('{"task": "title", "prompt": "Name it: {audio}"}\n')
        changed = run(*flags)
        without = run(*flags[:-2])
    assert found == {
        "Repeat: {audio}": ("known", 0.0),
        "{audio} Again.": ("prompt", 1.0),
        "Title: {audio}": ("known", 0.0),
        "In German: {audio}": ("task", 1.0),
    }
    for result in (changed, without):
        assert result.exit_code == 2
        assert "--trained-on (work.trained_on)" in result.output.replace("\n", " ")


def test_what_was_trained_on_has_to_be_rows_of_this_command(manifest, tmp_path, bank, gemma):
    with ChatServer(answers) as server:
        flags = flags_of(manifest, tmp_path / "out", bank, *asking(server, gemma), "--trained-on", tmp_path / "data")
        result = run(*flags)
        assert server.requests == []
    assert result.exit_code == 2
    assert "input_cfg.yaml: file of sources is missing" in result.output.replace("\n", " ")


def test_help_shows_an_example():
    assert "python examples/synthesize_imitation.py --input" in run("--help").output
