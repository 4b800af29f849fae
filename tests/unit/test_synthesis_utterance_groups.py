from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.inputs import open_speech
from vtblender_nemo.synthesis.inputs.utterance_groups import JoinedRows, JoinLimits, recording_name


def row(audio: str, offset: float, duration: float, text: str = "", **more: Any) -> dict[str, Any]:
    return {"audio_filepath": audio, "offset": offset, "duration": duration, "text": text or f"at {offset}", **more}


def manifest(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def joined(path: Path, **limits: Any) -> JoinedRows:
    return JoinedRows(open_speech([path]), JoinLimits(**limits))


def test_neighbours_become_one_span(tmp_path):
    path = manifest(tmp_path / "m.jsonl", row("a.wav", 3.0, 1.5, "two"), row("a.wav", 0.5, 2.0, "one", speaker="s1"))
    rows = joined(path)
    assert len(rows) == 1
    assert rows[0].id == "m-2+1"
    assert rows[0].place == f"{path}:2"
    assert rows[0].data == {
        **{"audio_filepath": "a.wav", "offset": 0.5, "duration": 4.0, "text": "one two", "speaker": "s1"},
        **{"id": "m-2+1", "utterances": ["one", "two"], "sources": ["m-2", "m-1"]},
    }


@pytest.mark.parametrize(
    ("rows", "limits", "spans"),
    [
        # gaps of 1, 2 and 2.5 s
        ([(0, 1), (2, 1), (5, 1), (8.5, 1)], {}, [(0, 6.0), (8.5, 1)]),
        ([(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)], {"utterances": 2}, [(0, 2.0), (2, 2.0), (4, 1)]),
        ([(0, 10), (10, 10), (20, 10)], {"span_secs": 20}, [(0, 20.0), (20, 10)]),
        # half a second over each other is a border, more are two people
        ([(0, 2), (1.5, 2), (2.5, 2)], {}, [(0, 3.5), (2.5, 2)]),
    ],
)
def test_limits(tmp_path, rows, limits, spans):
    path = manifest(tmp_path / "m.jsonl", *(row("a.wav", *span) for span in rows))
    found = joined(path, **limits)
    assert [(found[n].data["offset"], found[n].data["duration"]) for n in range(len(found))] == spans


def test_other_files_and_odd_rows_stay_alone(tmp_path):
    path = manifest(
        tmp_path / "m.jsonl",
        row("a.wav", 0, 1, "a0"),
        row("b.wav", 1, 1, "b1"),
        "{broken",
        row("a.wav", 1, 1, "  "),
        {"audio_filepath": "a.wav", "text": "no duration"},
        row("a.wav", 1, 1, "a1"),
    )
    rows = joined(path)
    assert len(rows) == 5
    assert rows[0].data["text"] == "a0 a1"
    assert [rows[n].data["text"] for n in (1, 3, 4)] == ["b1", "  ", "no duration"]
    with pytest.raises(DataError, match=r"m.jsonl:3"):
        rows[2]
    assert "utterances" not in rows[1].data


def test_nothing_to_join_is_said(tmp_path):
    path = manifest(tmp_path / "m.jsonl", row("a.wav", 0, 1), row("b.wav", 0, 1))
    with pytest.raises(ConfigError, match=r"no two rows can be joined.*--max-gap"):
        joined(path)


def test_rows_of_a_tar_stay_in_their_shard(tmp_path):
    first = manifest(tmp_path / "m_0.json", row("a-sub1.wav", 0, 1), row("a-sub2.wav", 1, 1), row("b.wav", 0, 1))
    second = manifest(tmp_path / "m_1.json", row("b.wav", 1, 1), row("b.wav", 2, 1))
    tars = [tmp_path / f"a_{n}.tar" for n in (0, 1)]
    for tar in tars:
        tar.write_bytes(b"")
    rows = JoinedRows(open_speech([first, second], tars), JoinLimits())
    assert rows.shard_sizes == [2, 1]
    assert [rows[n].data["duration"] for n in range(3)] == [2.0, 1, 2.0]
    assert rows[0].data["audio_filepath"] == "a-sub1.wav"
    assert rows.entry("out")["type"] == "nemo_tarred"


def test_alignments_are_joined_in_the_time_of_the_whole(tmp_path):
    words = [["a", 0.25, 0.5], ["b", None, None]]
    path = manifest(
        tmp_path / "m.jsonl",
        row("a.wav", 2.5, 1, "a b", alignment=words),
        row("a.wav", 4, 1, "c", alignment=[["c", 0.125, 1]]),
        row("b.wav", 0, 1, "d", alignment=words),
        row("b.wav", 1, 1, "e"),
    )
    rows = joined(path)
    assert rows[0].data["alignment"] == [["a", 0.25, 0.5], ["b", None, None], ["c", 1.625, 2.5]]
    assert "alignment" not in rows[1].data


def test_digest_and_pickle(tmp_path):
    path = manifest(tmp_path / "m.jsonl", row("a.wav", 0, 1), row("a.wav", 1, 1), row("a.wav", 2, 1))
    rows = joined(path)
    assert rows.digest == joined(path).digest != joined(path, utterances=2).digest
    again = pickle.loads(pickle.dumps(rows))
    assert [again[0], len(again), again.digest] == [rows[0], len(rows), rows.digest]


def test_names_of_recordings():
    assert recording_name("a/talk-sub12.wav") == recording_name("a/talk.wav") == "a/talk.wav"
    assert recording_name("a/talk-subway.wav") == "a/talk-subway.wav"


@pytest.mark.parametrize("limits", [{"utterances": 1}, {"gap_secs": -1}, {"span_secs": 0}])
def test_limits_that_cannot_be(limits):
    with pytest.raises(ConfigError, match="--utterances"):
        JoinLimits(**limits)
