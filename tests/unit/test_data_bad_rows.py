"""Rows and entries that cannot be used: every error names the place, the value and the key."""

from __future__ import annotations

import random

import pytest

from tests.helpers.corpus import RATE, write_jsonl
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.sources import Source, known_types, make_source


def make(**entry) -> Source:
    return make_source(entry, RATE, "input_cfg[0]")


def read(source: Source, index: int = 0) -> Conversation:
    return source.conversation(index, random.Random(0))


BAD_ROWS = {
    "blank": ("   ", "blank line"),
    "no json": ('{"id": 1', "line is not JSON.*found '.\"id\": 1'"),
    "no object": ("[1, 2]", "not a JSON object"),
    "no messages": ({"id": "x"}, "row without messages.*expected"),
    "messages of another type": ({"messages": "hi"}, "row without messages.*found 'hi'"),
    "unknown role": ({"messages": [{"role": "boss", "content": "a"}]}, "unknown role.*'boss'.*user"),
    "no content": ({"messages": [{"role": "user"}]}, "message without role or content"),
    "message of another type": ({"messages": ["hi"]}, "message without role or content"),
    "offset of another type": (
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a", "offset": [1], "duration": 1}]}]},
        "is no span.*'offset': .1.",
    ),
    "negative span": (
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a", "duration": -1}]}]},
        "is no span.*duration",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_name_their_file_and_line(tmp_path, name):
    row, message = BAD_ROWS[name]
    path = write_jsonl(tmp_path / "bad.jsonl", [{"messages": []}, row, {"messages": []}])
    with pytest.raises(DataError, match=rf"bad.jsonl:2: .*{message}"):
        read(make(type="text_chat", manifest_filepath=path), 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio_filepath": "a.wav", "duration": 1.0, "text": " "}, "empty text.*text_field"),
        ({"audio_filepath": "a.wav", "duration": 1.0}, "empty text.*text_field"),
        ({"duration": 1.0, "text": "x"}, "row without audio_filepath"),
        ({"audio_filepath": "a.wav", "duration": float("nan"), "text": "x"}, "is no span"),
        ({"audio_filepath": "a.wav", "duration": "long", "text": "x"}, "no length of time; found 'long'"),
        ({"audio_filepath": "a.wav", "duration": 1.0, "text": "x", "_skipme": True}, "marked to be skipped"),
    ],
)
def test_bad_speech_rows(tmp_path, row, message):
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", [row]), prompts=["p"])
    with pytest.raises(DataError, match=rf"m.jsonl:1: .*{message}"):
        read(source)


def test_a_wording_that_asks_for_more_than_the_row_has(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "x", "target_lang": "qq"}
    path = write_jsonl(tmp_path / "m.jsonl", [row])
    with pytest.raises(DataError, match=r"m.jsonl:1: .*field that the row lacks.*'topic'.*text.*prompts"):
        read(make(type="nemo", manifest_filepath=path, prompts=["About {topic}"]))
    with pytest.raises(DataError, match=r"m.jsonl:1: unknown language code.*'qq'"):
        read(make(type="nemo", manifest_filepath=path, prompts=["To {target_language}"]))


def test_the_registry_lists_the_known_types(tmp_path):
    assert set(known_types()) >= {"text_chat", "share_gpt", "nemo", "nemo_tarred", "lhotse", "lhotse_shar"}
    with pytest.raises(
        ConfigError, match=r"unknown type of source; found 'nemmo'; expected one of group, .*nemo.*input_cfg\[0\]"
    ):
        make(type="nemmo")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "text_chat"}, "no file is given.*manifest_filepath"),
        ({"type": "text_chat", "manifest_filepath": "nowhere.jsonl"}, "nowhere.jsonl: file is missing"),
        ({"type": "text_chat", "manifest_path": "x"}, "unknown key.*'manifest_path'.*manifest_filepath"),
        ({"type": "text_chat", "manifest_filepath": "x", "prompts": ["a"]}, "no such key; found 'prompts'"),
        ({"type": "nemo", "manifest_filepath": "$m"}, "no wordings.*prompts"),
        ({"type": "nemo", "manifest_filepath": "$m", "prompts": "nowhere.yaml"}, "file of wordings is missing"),
        ({"type": "nemo", "manifest_filepath": "$m", "prompts": ["{audio} {audio}"]}, "more than one {audio}"),
        ({"type": "nemo", "manifest_filepath": "$m", "prompts": ["{"]}, "no format string"),
        ({"type": "nemo", "manifest_filepath": "$m", "prompts": []}, "no list of texts"),
        (
            {"type": "nemo", "manifest_filepath": "$m", "prompts": ["a"], "audio_position": "left"},
            "before, after, random",
        ),
        ({"type": "nemo", "manifest_filepath": "$empty", "prompts": ["a"]}, "no rows"),
        ({"type": "nemo_tarred", "manifest_filepath": "$m", "prompts": ["a"]}, "no file is given.*tarred_audio"),
        ({"type": "lhotse_shar", "shar_path": "$dir", "prompts": ["a"]}, "do not match.*cuts.NNNNNN.jsonl.gz"),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(tmp_path, entry, message):
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "text": "x"}])
    write_jsonl(tmp_path / "empty.jsonl", [])
    names = {"$m": str(tmp_path / "m.jsonl"), "$empty": str(tmp_path / "empty.jsonl"), "$dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=message):
        make(**{key: names.get(value, value) if isinstance(value, str) else value for key, value in entry.items()})
