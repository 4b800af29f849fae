"""Sources left out, weighed anew, and with less speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.experiments.blend_changes import draw_speech, hear_only, leave_out, with_shares

BLEND: list[dict[str, Any]] = [
    {"type": "text_chat", "name": "text", "weight": 3.5},
    {
        "type": "group",
        "name": "recognition",
        "weight": 5.5,
        "input_cfg": [{"type": "nemo", "name": "asr", "weight": 4}, {"type": "nemo", "name": "ast_de", "weight": 1.5}],
    },
    {"type": "speech_qa", "name": "sqa", "weight": 4},
    {"type": "multimodal_conversation", "name": "mixed", "weight": 10},
]


def limit_speech(entries: list[dict[str, Any]], minutes: float, folder: Path) -> list[dict[str, Any]]:
    return hear_only(entries, draw_speech(entries, minutes), folder)


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [
        name
        for entry in entries
        for name in ([entry["name"]] if "manifest" in entry or entry["type"] != "group" else names(entry["input_cfg"]))
    ]


@pytest.mark.parametrize(
    ("left_out", "left"),
    [
        (["text_chat"], ["asr", "ast_de", "sqa", "mixed"]),
        (["mixed", "ast_de"], ["text", "asr", "sqa"]),
        (["recognition"], ["text", "sqa", "mixed"]),
        (["nemo"], ["text", "sqa", "mixed"]),
    ],
)
def test_sources_are_left_out_by_name_or_type(left_out: list[str], left: list[str]) -> None:
    assert names(leave_out(BLEND, left_out)) == left
    assert names(BLEND) == ["text", "asr", "ast_de", "sqa", "mixed"]  # what was given is not changed


def test_a_name_that_no_source_has_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no source of this name or type") as raised:
        leave_out(BLEND, ["text", "txet"])
    assert raised.value.value == ["txet"]
    with pytest.raises(ConfigError, match="no source is left"):
        leave_out(BLEND, ["text", "recognition", "sqa", "mixed"])


def shares(entries: list[dict[str, Any]]) -> dict[str, float]:
    total = sum(entry["weight"] for entry in entries)
    return {entry["name"]: entry["weight"] / total for entry in entries}


@pytest.mark.parametrize("percent", [0, 10, 50, 90])
def test_a_share_is_that_of_all_rows_and_the_others_keep_their_proportions(percent: float) -> None:
    found = shares(with_shares(BLEND, {"text_chat": percent}))
    assert found.get("text", 0) == pytest.approx(percent / 100)
    assert found["mixed"] / found["sqa"] == pytest.approx(10 / 4)
    assert found["recognition"] / found["sqa"] == pytest.approx(5.5 / 4)


def test_several_shares() -> None:
    found = shares(with_shares(BLEND, {"text": 20, "mixed": 30}))
    assert (found["text"], found["mixed"], found["sqa"]) == pytest.approx((0.2, 0.3, 0.5 * 4 / 9.5))


@pytest.mark.parametrize(
    "percent", [{"asr": 10}, {"nothing": 10}, {"text": 100}, {"text": -1}, {"text": 10, "text_chat": 10}]
)
def test_shares_that_cannot_be(percent: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        with_shares(BLEND, percent)
    with pytest.raises(ConfigError, match="needs weights"):
        with_shares([{"type": "text_chat", "name": "text"}, {"type": "nemo", "name": "asr"}], {"text": 10})


@pytest.fixture
def spoken(tmp_path: Path) -> list[dict[str, Any]]:
    """100 recordings of 3 s in three sources; every mixed-modal row holds two."""

    def write(name: str, rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "sources" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    clips = [{"audio_filepath": f"../speech/{n:03}.wav", "duration": 3.0, "text": f"{n}"} for n in range(100)]
    mixed = [
        {
            "id": str(n),
            "conversations": [
                {"type": "text", "from": "User", "value": "say"},
                *(
                    {"type": "audio", "from": "User", "value": f"../speech/{k:03}.wav", "duration": 3.0}
                    for k in (n, n + 1)
                ),
            ],
        }
        for n in range(99)
    ]
    return [
        {"type": "text_chat", "name": "text", "manifest_filepath": write("text", [{"id": "1"}])},
        {
            "type": "group",
            "name": "r",
            "input_cfg": [{"type": "nemo", "name": "asr", "manifest_filepath": write("asr", clips)}],
        },
        {"type": "speech_qa", "name": "sqa", "manifest_filepath": write("sqa", clips + clips)},
        {"type": "multimodal_conversation", "name": "mixed", "manifest_filepath": write("mixed", mixed)},
    ]


def heard(entries: list[dict[str, Any]]) -> dict[str, list[set[str]]]:
    """Source -> the recordings of its rows."""
    found = {}
    for entry in [entries[1]["input_cfg"][0], *entries[2:]]:
        rows = [json.loads(line) for line in Path(entry["manifest_filepath"]).read_text().splitlines()]
        found[entry["name"]] = [
            {turn["value"] for turn in row.get("conversations", []) if turn["type"] == "audio"}
            or {row["audio_filepath"]}
            for row in rows
        ]
    return found


def test_all_sources_hear_the_same_recordings_of_so_many_minutes(spoken: list[dict[str, Any]], tmp_path: Path) -> None:
    limited = limit_speech(spoken, 2.5, tmp_path / "out")
    found = heard(limited)
    clips = set().union(*found["asr"])
    assert len(clips) == 50  # 150 s
    assert set().union(*found["sqa"]) == clips
    assert len(found["sqa"]) == 100
    assert all(row <= clips for row in found["mixed"])
    assert found["mixed"]
    assert all(Path(clip).parent == (tmp_path / "speech").resolve() for clip in clips)
    assert limited[0] == spoken[0]


def test_imitation_hears_the_same_recordings_also_through_a_file_of_sources(
    spoken: list[dict[str, Any]], tmp_path: Path
) -> None:
    clips = [json.loads(line) for line in Path(spoken[1]["input_cfg"][0]["manifest_filepath"]).read_text().splitlines()]
    rows = [
        {
            **row,
            "id": f"{row['text']}-{task}",
            "audio_filepath": row["audio_filepath"].removeprefix("../"),
            "task": task,
        }
        for row in clips
        for task in ("repeat", "upper")
    ]
    folder = tmp_path / "imitation"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"type": "imitation", "name": "imitated", "manifest_filepath": "rows.jsonl", "audio_dir": ".."}
    (folder / "input_cfg.yaml").write_text(yaml.safe_dump([{**entry, "llm_fingerprint": "f"}]))
    group = {"type": "group", "name": "i", "interleave": {}, "input_cfg": str(folder / "input_cfg.yaml")}
    *limited, changed = limit_speech([*spoken, group], 2.5, tmp_path / "out")
    (source,) = changed["input_cfg"]
    assert (source["llm_fingerprint"], changed["interleave"]) == ("f", {})
    left = [json.loads(line) for line in Path(source["manifest_filepath"]).read_text().splitlines()]
    assert len(left) == 100
    assert {row["audio_filepath"] for row in left} == set().union(*heard(limited)["asr"])
    assert names(leave_out([*spoken, group], ["imitated"])) == ["text", "asr", "sqa", "mixed"]


def test_more_minutes_keep_what_fewer_had(spoken: list[dict[str, Any]], tmp_path: Path) -> None:
    few, many = (set().union(*heard(limit_speech(spoken, m, tmp_path / str(m)))["asr"]) for m in (1, 4))
    assert few < many
    assert limit_speech(spoken, 5, tmp_path / "all")  # exactly what there is


def test_speech_that_cannot_be_limited(spoken: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not so much speech") as raised:
        limit_speech(spoken, 5.1, tmp_path)
    assert "at most 5.0" in str(raised.value)
    with pytest.raises(ConfigError, match="no row of the source"):
        limit_speech(spoken, 0.01, tmp_path)
    with pytest.raises(ConfigError, match="cannot be shortened"):
        limit_speech([{"type": "lhotse_shar", "name": "shar"}], 1, tmp_path)
    path = tmp_path / "without.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "text": "a"}\n')
    with pytest.raises(ConfigError, match="without duration"):
        limit_speech([{"type": "nemo", "manifest_filepath": str(path)}], 1, tmp_path)
