"""Text chats of every shape made into rows that train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.corpora import files_of, read_back, rejected
from tests.helpers.corpus import write_jsonl
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.corpora.chats import prepare_chats
from vtblender_nemo.data.config import DEFAULT_LOCATOR_TAG
from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions

OPTIONS = SynthesisOptions(rows_per_shard=2)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def said(folder) -> dict[str, str]:
    return {name.split("/")[1]: row["answer"] for name, row in read_back(folder / "input_cfg.yaml").items()}


def test_every_shape_becomes_messages(tmp_path):
    rows = [
        {"id": "a", "messages": [turn("user", "hi"), turn("assistant", "hello")]},
        {"id": "b", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hey"}]},
        {"uuid": "c", "instruction": "Name a colour.", "response": "Blue.", "score": 3},
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", rows)
    summary = prepare_chats([path], tmp_path / "out", OPTIONS)
    assert (summary.made, summary.shards) == (3, 2)
    assert said(tmp_path / "out") == {"a": "hello", "b": "hey", "c": "Blue."}
    (entry,) = yaml.safe_load((tmp_path / "out/input_cfg.yaml").read_text())
    manifests = "shard__OP_000000..000001_CL_/manifest.jsonl"
    assert entry == {"type": "text_chat", "manifest_filepath": manifests, "name": "out"}
    last = json.loads((tmp_path / "out/shard_000001/manifest.jsonl").read_text())
    assert last["score"] == 3
    assert "to be checked" in (tmp_path / "out/LICENCE.txt").read_text()


def test_a_folder_that_datasets_saved(tmp_path):
    from datasets import Dataset

    rows = [{"instruction": f"say {n}", "response": f"{n}"} for n in range(3)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    prepare_chats([tmp_path / "saved"], tmp_path / "out", OPTIONS)
    assert sorted(said(tmp_path / "out").values()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([turn("user", "hi")], "no_answer"),
        ([turn("assistant", "hello")], "bad_chat"),
        ([turn("user", "hi"), turn("user", "hi?"), turn("assistant", "hello")], "bad_chat"),
        ([turn("user", " "), turn("assistant", "hello")], "bad_chat"),
        ([turn("teacher", "hi"), turn("assistant", "hello")], "bad_row"),
        ([turn("user", "what is <unused0>?"), turn("assistant", "hello")], "locator_tag_in_text"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, messages, reason):
    good = [turn("system", "Be brief."), turn("user", "hi"), turn("assistant", "hello")]
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "bad", "messages": messages}, {"id": "good", "messages": good}])
    summary = prepare_chats([path], tmp_path / "out", OPTIONS)
    assert summary.refused_by_reason == {reason: 1}
    assert said(tmp_path / "out") == {"good": "hello"}
    assert list(rejected(tmp_path / "out").values()) == [reason]


def test_the_tag_that_is_refused_is_the_default_of_training():
    base = yaml.safe_load((Path(__file__).parents[2] / "conf/base.yaml").read_text())
    assert base["model"]["audio_locator_tag"] == DEFAULT_LOCATOR_TAG


def test_a_last_question_without_an_answer_is_left_out(tmp_path):
    messages = [turn("user", "hi"), turn("assistant", "hello"), turn("user", "and?")]
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "a", "messages": messages}])
    summary = prepare_chats([path], tmp_path / "out", OPTIONS)
    assert said(tmp_path / "out") == {"a": "hello"}
    assert (summary.made, summary.refused_by_reason) == (1, {"last_question_unanswered": 1})
    (told,) = map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    assert told == {"id": "a", "place": f"{path}:1", "reason": "last_question_unanswered", "detail": "and?"}


def test_limit_takes_the_first_rows(tmp_path):
    rows = [{"id": f"c{n}", "instruction": "say", "response": f"{n}"} for n in range(5)]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    summary = prepare_chats([path], tmp_path / "out", OPTIONS, limit=3)
    assert summary.rows == 3
    assert said(tmp_path / "out") == {"c0": "0", "c1": "1", "c2": "2"}
    with pytest.raises(ConfigError, match="input.rows was 3 and is 5"):
        prepare_chats([path], tmp_path / "out", OPTIONS)
    with pytest.raises(ConfigError, match="--limit"):
        prepare_chats([path], tmp_path / "other", OPTIONS, limit=0)


def test_processes_change_nothing(tmp_path):
    rows = [{"id": f"c{n}", "instruction": "say", "response": f"{n}"} for n in range(5)]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    prepare_chats([path], tmp_path / "one/out", OPTIONS)
    prepare_chats([path], tmp_path / "two/out", SynthesisOptions(rows_per_shard=2, workers=2))
    one, two = (files_of(tmp_path / name / "out") for name in ("one", "two"))
    for files in (one, two):
        files.pop("summary.json")  # which tells the speed
    assert one == two
