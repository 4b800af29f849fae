"""Rows of every type of source, of synthesis inputs, of test sets and of manifests to be answered; alignments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.fuzz import files
from tests.fuzz.targets import Case, Reader, Target
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import DataError, VTBlenderError
from vtblender_nemo.data.sources import make_source
from vtblender_nemo.data.word_times import fitting_field, read_alignment, split_words, units_of
from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.evaluation.manifest import read_manifest
from vtblender_nemo.synthesis.inputs.chats import open_chats
from vtblender_nemo.synthesis.inputs.speech import open_speech
from vtblender_nemo.synthesis.inputs.utterance_groups import JoinedRows, JoinLimits

ALIGNED = [["hello", 0.05, 0.2], ["there", 0.25, 0.45]]
ROW = {
    **{"id": "r", "audio_filepath": files.SHORT, "duration": 0.5, "offset": 0.0, "text": "hello there"},
    **{"translation": "hallo", "source_lang": "en", "target_lang": "de", "alignment": ALIGNED, "shard_id": 0},
    **{"question": "what?", "answer": "this", "prompt": "Say {audio}!", "_skipme": False},
}
AUDIO = {"type": "audio", "audio": files.SHORT, "offset": 0.1, "duration": 0.2}
MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [AUDIO, {"type": "text", "text": "what?"}]},
]
ANSWERED = {"id": "c", "messages": [*MESSAGES, {"role": "assistant", "content": "this"}], "task": "qa"}
CHAT = {"id": "c", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
GPT = {"id": "g", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
NEMO_CHAT = {
    "id": "n",
    "conversations": [
        {"type": "text", "from": "User", "value": "hear"},
        {
            "type": "audio",
            "from": "User",
            "value": files.SHORT,
            "duration": 0.5,
            "text": "hello there",
            "alignment": ALIGNED,
        },
        {"type": "text", "from": "Assistant", "value": "ho"},
    ],
}
ITEM = {"id": "i", "task": "qa", "messages": MESSAGES, "reference": "this", "custom": {"kind": "x"}}
INTERLEAVE = {"prob": 1.0, "words": [1, 1], "min_secs": 0.05}
PROMPTS = ["To {target_language}:", "{text} {audio}"]

SOURCES: dict[str, tuple[dict[str, Any], Any]] = {
    "nemo": ({"prompts": PROMPTS, "interleave": INTERLEAVE}, ROW),
    "nemo_tarred": ({"prompts": PROMPTS, "tarred_audio_filepaths": "audio.tar"}, ROW),
    "speech_qa": ({}, ROW),
    "imitation": ({"interleave": INTERLEAVE}, ROW),
    "lhotse": ({"prompts": PROMPTS, "interleave": INTERLEAVE}, files.cut()),
    "lhotse_shar": ({"prompts": PROMPTS}, files.cut("shar", "")),
    "text_chat": ({}, ANSWERED),
    "share_gpt": ({}, GPT),
    "multimodal_conversation": ({"interleave": INTERLEAVE}, NEMO_CHAT),
    "items": ({}, ITEM),
}
"""By type of source: what its entry holds beside the rows, and a row."""


def make(folder: Path) -> Target:
    files.write_audio(folder)
    path = folder / "rows.jsonl"
    readers: dict[str, Reader] = {kind: _source(folder, kind, more) for kind, (more, _) in SOURCES.items()}
    readers |= {
        "input_speech": lambda value: _speech(files.write(path, value)),
        "input_joined": lambda value: _joined(folder / "many.jsonl", value),
        "input_chats": lambda value: _rows(open_chats([str(files.write(path, value))])),
        "test_items": lambda value: [_heard(item.conversation) for item in read_items(files.write(path, value))],
        "to_answer": lambda value: [_heard(row.item.conversation) for row in read_manifest(files.write(path, value))],
        "alignment": _alignment,
    }
    seeds: list[Case] = [(kind, row) for kind, (_, row) in SOURCES.items()]
    seeds += [("lhotse", files.mixed()), ("text_chat", {**ANSWERED, "messages": ANSWERED["messages"][:1]})]
    seeds += [("lhotse", files.cut(custom={"source_lang": "en", "target_lang": "de"}))]
    seeds += [("input_speech", ROW), ("input_speech", files.cut()), ("input_joined", [ROW, {**ROW, "offset": 0.6}])]
    seeds += [("input_chats", row) for row in (CHAT, GPT, {"instruction": "hi", "response": "ho"}, [CHAT, GPT])]
    seeds += [("test_items", ITEM), ("to_answer", ROW), ("to_answer", {"messages": MESSAGES})]
    seeds += [
        ("alignment", ["hello there", ALIGNED, 0.5]),
        ("alignment", ["漢字 [ok]!", [["漢", 0, 1], ["字 ok", None, None]], 2]),
    ]
    seeds += [
        (
            "alignment",
            ["a & b", [{"symbol": "a", "start": 0.1, "duration": 0.2}, {"word": "b", "start": 1, "end": 2}], 3],
        )
    ]
    return Target(seeds, readers, (VTBlenderError,))


def _source(folder: Path, kind: str, more: dict[str, Any]) -> Reader:
    path = folder / "rows.jsonl"
    entry: dict[str, Any] = {"type": kind, **more}
    if "tarred_audio_filepaths" in entry:
        entry["tarred_audio_filepaths"] = str(folder / entry["tarred_audio_filepaths"])
    if kind == "lhotse_shar":
        path, entry["shar_path"] = folder / "shar/cuts.000000.jsonl", str(folder / "shar")
    else:
        entry["cuts_path" if kind == "lhotse" else "manifest_filepath"] = str(path)

    def read(value: Any) -> None:
        files.write(path, value)
        source = make_source(entry, files.RATE, "input_cfg[0]")
        for index in range(len(source)):
            _heard(source.conversation(index, random.Random(index)))

    return read


def _heard(conversation: Conversation | None) -> None:
    for audio in conversation.audios if conversation is not None else ():
        load_samples(audio.cut, files.RATE)


def _speech(path: Path) -> None:
    rows = open_speech([path])
    for row in _rows(rows):
        load_samples(rows.cut_of(row, files.RATE), files.RATE)


def _joined(path: Path, value: Any) -> None:
    lines = [files.dumped(row) for row in value] if isinstance(value, list) else [files.dumped(value)]
    path.write_text("\n".join(lines), encoding="utf-8")
    _rows(JoinedRows(open_speech([path]), JoinLimits()))


def _rows(rows: Any) -> list[Any]:
    rows.check_ids()
    return [rows[index] for index in range(len(rows))]


def _alignment(value: Any) -> None:
    """[transcript, words, seconds]; the transcript is always text where alignments are read."""
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)):
        return
    secs = float(value[2]) if isinstance(value[2], int | float) and abs(value[2]) < 1e300 else 1.0
    split_words(value[0])
    try:
        words = read_alignment(value[1])
    except DataError:
        words = None
    fitting_field(value[0], words, secs)
    if words is not None:
        assert "".join(unit.text for unit in units_of(value[0], words, secs)) == value[0]
