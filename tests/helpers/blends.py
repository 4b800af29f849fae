"""A small blend of all kinds of sources with audio that sounds, and a copy of it with one row for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import yaml

from tests.helpers.corpus import LOCATOR, RATE, chat_rows, wav_bytes, write_jsonl, write_tar

# The second is drawn for no row of the tests' blends, so rarely that it would be found by chance.
WORDINGS = ["Write."] * 10_000 + ["Write {source_language}."]


def write_blend(folder: Path, rows: int = 12) -> Path:
    """Files of speech recognition, speech QA, mixed-modal talk in a tar, and chats; returns the YAML that lists them."""
    for number in range(rows):
        sf.write(_made(folder / f"audio/{number}.flac"), _tone(0.4 + 0.1 * number, 200 + 30 * number), RATE)
    speech = [
        {
            "audio_filepath": f"audio/{number}.flac",
            "duration": round(0.4 + 0.1 * number, 1),
            "text": f"speech number {number} " * (1 + number % 3),
            "source_lang": "en",
            "question": f"which number is {number}?",
            "answer": f"it is {number}",
        }
        for number in range(rows)
    ]
    write_jsonl(folder / "speech.jsonl", speech)
    write_jsonl(folder / "chats.jsonl", chat_rows(rows, words=6))
    members = {f"{number}.wav": wav_bytes(_tone(0.5, 300)) for number in range(rows)}
    write_tar(folder / "talk.tar", members)
    write_jsonl(folder / "talk.jsonl", [_talk(number) for number in range(rows)])
    entries: list[dict[str, Any]] = [
        {"type": "nemo", "name": "asr", "weight": 2, "manifest_filepath": "speech.jsonl", "prompts": WORDINGS},
        {"type": "speech_qa", "weight": 1, "manifest_filepath": "speech.jsonl", "tags": {"corpus": "asr"}},
        {
            "type": "multimodal_conversation",
            "name": "talk",
            "weight": 1,
            "manifest_filepath": "talk.jsonl",
            "tarred_audio_filepaths": "talk.tar",
        },
        {"type": "text_chat", "name": "chats", "weight": 1, "manifest_filepath": "chats.jsonl"},
    ]
    path = folder / "blend.yaml"
    path.write_text(yaml.safe_dump({"input_cfg": entries}, sort_keys=False), encoding="utf-8")
    return path


def spoil(folder: Path) -> dict[str, dict[int, str]]:
    """Adds bad rows to a blend's files.

    Returns:
        What is wrong by file and 1-based line: the check that it takes, the level, and the problem, parted by bars.
    """
    sf.write(folder / "audio/low.flac", _tone(0.5, 300, 8000), 8000)
    sf.write(folder / "audio/silent.flac", np.zeros(8000, np.float32), RATE)
    (folder / "audio/broken.flac").write_bytes(b"fLaC, but not really")
    whole = (folder / "audio/11.flac").read_bytes()
    (folder / "audio/cut.flac").write_bytes(whole[: len(whole) // 3])
    good = {"audio_filepath": "audio/0.flac", "duration": 0.4, "text": "x", "question": "q?", "answer": "a"}
    good["source_lang"] = "en"
    speech: dict[str, Any] = {
        "none|error|line is not JSON": '{"audio_filepath": "audio/0.flac", ',
        "none|error|blank line": "",
        "none|error|row with an empty text": {**good, "text": " ", "answer": "a"},
        "header|error|audio file is missing": {**good, "audio_filepath": "audio/nowhere.flac"},
        "header|error|audio file cannot be opened": {**good, "audio_filepath": "audio/broken.flac"},
        "header|error|audio is shorter than its manifest says": {**good, "duration": 3.0},
        "none|error|the part asked for is no span": {**good, "duration": -1.0},
        "none|error|the audio locator tag stands inside a text": {**good, "text": f"a {LOCATOR} b"},
        "header|warning|file is longer than its row says": {**good, "audio_filepath": "audio/11.flac"},
        "header|warning|rate of the audio is below the model's": {**good, "audio_filepath": "audio/low.flac"},
        "header|warning|row says another rate than its file": {**good, "sampling_rate": 8000},
        "none|warning|some wordings ask for a field that the row lacks": {**good, "source_lang": "xx"},
        "none|warning|text holds another model's placeholder for audio": {**good, "text": "hear <|audio|> this"},
        "decode|warning|audio is silent": {**good, "audio_filepath": "audio/silent.flac"},
        "decode|error|audio cannot be decoded": {**good, "audio_filepath": "audio/cut.flac", "duration": 1.5},
    }
    chats: dict[str, Any] = {
        "none|error|conversation has no final answer": {"id": "u", "messages": [{"role": "user", "content": "a"}]},
        "none|error|empty turn": {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]
        },
        "none|error|unknown role": {"messages": [{"role": "boss", "content": "a"}]},
    }
    return {
        "speech.jsonl": _append(folder / "speech.jsonl", speech),
        "chats.jsonl": _append(folder / "chats.jsonl", chats),
    }


def _append(path: Path, rows: dict[str, Any]) -> dict[int, str]:
    before = len(path.read_text(encoding="utf-8").splitlines())
    with path.open("a", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows.values())
    return {before + number: problem for number, problem in enumerate(rows, start=1)}


def _talk(number: int) -> dict[str, Any]:
    asked = {"type": "text", "from": "User", "value": "Listen & answer: <b>what</b> was said?"}
    audio = {"type": "audio", "from": "User", "value": f"{number}.wav", "duration": 0.5}
    answer = {"type": "text", "from": "Assistant", "value": f"A tone, number {number}."}
    return {"id": f"t{number}", "conversations": [asked, audio, answer]}


def _tone(secs: float, hertz: float, rate: int = RATE) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(round(secs * rate)) / rate)).astype(np.float32)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
