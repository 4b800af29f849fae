"""Inputs that fuzzing has found: each raised another error than ours once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import files
from tests.fuzz.manifest import AUDIO, ITEM, NEMO_CHAT, ROW
from tests.fuzz.mutate import ODD, _deep
from tests.fuzz.targets import open_target

HUGE, ENDLESS = 10**400, float("inf")


def chat(**audio: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{**AUDIO, **audio}]}]}


CRASHES: dict[str, list[tuple[str, Any]]] = {
    "manifest": [
        ("text_chat", chat(duration=ENDLESS)),
        ("text_chat", [_deep(2000, True)]),
        ("text_chat", chat(offset={}, duration="x")),
        ("nemo", {**ROW, "duration": ENDLESS}),
        ("nemo_tarred", {**ROW, "duration": 1e308}),
        ("imitation", {**ROW, "duration": HUGE}),
        ("multimodal_conversation", {"conversations": [{**NEMO_CHAT["conversations"][1], "offset": HUGE}]}),
        ("lhotse", files.cut(duration=HUGE)),
        ("lhotse", files.cut(start=1e308, duration=1e-308)),
        (
            "lhotse_shar",
            {**files.cut("shar", ""), "recording": {**files.cut("shar", "")["recording"], "duration": HUGE}},
        ),
        ("input_speech", {**ROW, "offset": {}}),
        ("input_speech", {**ROW, "duration": HUGE}),
        ("input_speech", files.cut(duration={})),
        ("input_joined", [{**ROW, "duration": HUGE}, ROW]),
        ("input_joined", [_deep(2000, False), ROW]),
        ("input_chats", [_deep(2000, True)]),
        ("input_chats", "[" * 5000),
        ("to_answer", {"audio_filepath": files.SHORT, "offset": HUGE}),
        ("to_answer", {"audio_filepath": "x" * 5000}),
        ("test_items", {**ITEM, **chat(audio="a\0b")}),
        ("alignment", ["a", [["a", HUGE, 1]], 2]),
        ("alignment", ["a", _deep(2000, True), 2]),
    ],
    "conversation": [
        ("messages", 5),
        ("messages", "hi"),
        ("generate", 5),
        ("generate", [{"role": "user", "content": [{"type": "audio", "audio": "a/" * 3000}]}]),
        ("generate", chat(audio=files.SHORT, duration=HUGE)["messages"]),
    ],
    "config": [
        ("tasks", {"tasks": {"a": "b"}}),
        ("tasks", {"tasks": {"a": {"kind": "asr", "items": ["x" * 5000]}}}),
        ("tasks", {"tasks": {"a": {"kind": "${xy"}}}),
        ("tasks", {"tasks": {"a": {"kind": "asr", "limit": _deep(1500, True)}}}),
        ("tasks", {"tasks": {"a": {"kind": "asr"}}, "include": 5}),
        ("tasks", {"tasks": {"a": {"kind": "asr"}}, "include": ["x" * 5000]}),
        ("input_cfg", "[" * 5000),
        ("input_cfg", [{"type": "text_chat", "manifest_filepath": "x" * 5000}]),
        ("input_cfg", [{"type": "text_chat", "manifest_filepath": "{"}]),
        ("input_cfg", [{"type": "text_chat", "manifest_filepath": "/"}]),
        ("input_cfg", [{"type": "nemo", "manifest_filepath": "row.jsonl", "prompts": "x" * 5000}]),
        ("input_cfg", "a: 2020-13-45"),
        ("qa_prompts", "[" * 5000),
        ("voices", [{"type": ["espeak"]}]),
        ("archive", {"config": _deep(2000, True), "members": [["model_config.yaml"], ["model_weights.ckpt"]]}),
        ("archive", "\x1f\x8b\x08 not gzip at all"),
    ],
}


@pytest.mark.parametrize("name", CRASHES)
def test_inputs_that_crashed_raise_our_errors(name: str, tmp_path: Path) -> None:
    target = open_target(name, tmp_path)
    for number, case in enumerate(CRASHES[name]):
        taken = target.read(case)  # those that keep an error, or go on without
        assert not taken or case[0] in ("to_answer", "test_items", "alignment"), f"{number}: {case[0]}"
    for kind in target.readers:
        for value in ODD[::3]:
            target.read((kind, value))
