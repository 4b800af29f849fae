from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.listener import write_tone
from vtblender_nemo.common.conversation import Text
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.items import read_items

ROW: dict[str, Any] = {
    "id": "1",
    "task": "sqa",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "audio", "audio": "wav/a.wav", "offset": 0.25, "duration": 0.5},
                {"type": "text", "text": "Where?"},
            ],
        }
    ],
    "reference": "Here.",
}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_row_becomes_an_item(tmp_path):
    write_tone(tmp_path / "wav/a.wav", 10, secs=1)
    (item,) = read_items(write(tmp_path, ROW | {"custom": {"kind": "one"}}))
    assert (item.id, item.task, item.reference, item.error) == ("1", "sqa", "Here.", "")
    assert item.custom == {"kind": "one"}
    audio, question = item.conversation.turns[0].parts
    assert audio.duration_secs == pytest.approx(0.5)
    assert question == Text("Where?")


def test_several_turns_and_absolute_paths(tmp_path):
    path = write_tone(tmp_path / "elsewhere/a.wav", 10)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "audio", "audio": str(path)}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ]
    (item,) = read_items(write(tmp_path, ROW | {"messages": messages}))
    assert [turn.role for turn in item.conversation.turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("content", [None, b"no audio"])
def test_an_audio_that_cannot_be_opened_fails_its_item_alone(tmp_path, content):
    write_tone(tmp_path / "wav/good.wav", 10, secs=1)
    good = json.loads(json.dumps(ROW).replace("a.wav", "good.wav")) | {"id": "2"}
    if content:
        (tmp_path / "wav/a.wav").write_bytes(content)
    bad, fine = read_items(write(tmp_path, ROW, good))
    assert bad.conversation is None
    assert "wav/a.wav" in bad.error
    assert fine.conversation is not None
    assert fine.error == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", r"items\.jsonl:2: .*JSON"),
        ("", r"items\.jsonl:2: blank line"),
        ("[1]", r"items\.jsonl:2: .*not a JSON object"),
        ({key: value for key, value in ROW.items() if key != "reference"}, r":2: missing field.*'reference'.*expected"),
        (ROW | {"extra": 1}, r":2: unknown field.*'extra'.*expected the fields id, task, messages"),
        (ROW | {"reference": 5}, r":2: field reference of the wrong type; found 5"),
        (ROW | {"messages": "hi"}, r":2: field messages of the wrong type"),
        (ROW | {"custom": []}, r":2: field custom of the wrong type"),
        (ROW | {"id": "first"}, r":2: repeated id; found 'first'; expected another id than in line 1"),
        (ROW | {"messages": []}, r":2: conversation without turns"),
        (ROW | {"messages": [{"role": "user"}]}, r":2: message without role or content"),
        (ROW | {"messages": [{"role": "assistant", "content": "x"}]}, r":2: .*wrong role; found 'assistant'"),
        (
            ROW | {"messages": [{"role": "user", "content": [{"type": "audio", "audio": 5}]}]},
            r":2: audio is neither a path nor samples; found 5",
        ),
        (
            ROW | {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "b.wav", "offset": "1"}]}]},
            r":2: offset of an audio is no number; found '1'; expected seconds",
        ),
    ],
)
def test_a_faulty_row_is_named(tmp_path, row, message):
    write_tone(tmp_path / "wav/a.wav", 10, secs=1)
    with pytest.raises(DataError, match=message):
        read_items(write(tmp_path, ROW | {"id": "first"}, row, ROW | {"id": "last"}))


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_set_is_an_error(tmp_path, text):
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"items\.jsonl: file without rows"):
        read_items(path)


def test_a_missing_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="file is missing"):
        read_items(tmp_path / "none.jsonl")
