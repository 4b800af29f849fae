"""Small evaluations made by hand, as `evaluate_vtb.py` leaves them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet, write_scores

RATE = 16000

ASR = [
    Measure(
        "asr", "asr", "wer_percent", 2.5369, 1.9375, 3.2266, 3, 1, better="lower", signature="jiwer:4.0|norm:english"
    ),
    Measure("asr", "asr", "wer_percent", 14.0041, 10.7, 17.93, 2, group="secs=0-2", better="lower"),
    Measure("asr", "asr", "wer_percent", 1.3333, 0.5, 2.25, 1, group="secs=10-20", better="lower"),
    Measure("asr", "asr", "wer_percent", 2.1111, 1.5, 3.25, 1, group="secs=2-5", better="lower"),
    Measure("asr", "asr", "cer_percent", 1.1234, 0.8, 1.5, 3, better="lower"),
    Measure("asr", "asr", "rtfx", 1418.3, 1418.3, 1418.3, 3, better="higher"),
]
SQA = [
    Measure("sqa", "sqa", "exact_match_percent", 94.6, 92.6, 96.4, 500, better="higher"),
    Measure("sqa", "sqa", "exact_match_percent", 97.2, 95.8, 98.6, 500, variant="text_twin", better="higher"),
    Measure("sqa", "sqa", "exact_match_percent", 7.0, 5.0, 9.4, 500, variant="no_audio_shuffle", better="higher"),
    Measure("sqa", "sqa", "exact_match_percent", -2.6, -4.0, -1.4, 500, variant="minus_text_twin", better="higher"),
    Measure(
        "sqa", "sqa", "exact_match_percent", 87.6, 84.0, 90.0, 500, variant="minus_no_audio_shuffle", better="higher"
    ),
]
TEXT = [
    Measure("text", "text", "accuracy_percent", 92.17, 90.0, 94.17, 600, better="higher"),
    Measure("text", "text", "accuracy_percent", 98.0, 94.0, 100.0, 50, group="kind=sum", better="higher"),
    Measure("text", "text", "accuracy_percent", 78.0, 66.0, 90.0, 50, group="kind=sort", better="higher"),
    Measure("text", "text", "accuracy_percent", 91.17, 88.83, 93.5, 600, variant="base", better="higher"),
    Measure(
        "text", "text", "accuracy_percent", 96.5, 93.0, 99.0, 50, variant="base", group="kind=sum", better="higher"
    ),
    Measure("text", "text", "accuracy_percent", 1.0, -0.7, 2.6, 600, variant="minus_base", better="higher"),
    Measure(
        "text", "text", "accuracy_percent", 1.5, -3.0, 6.0, 50, variant="minus_base", group="kind=sum", better="higher"
    ),
]
MODEL = {
    "path": "m/vtb_tiny.nemo",
    "name": "vtb_tiny",
    "llm": "world/llm",
    "asr": "world/encoder.nemo",
    "sha256": "ab" * 32,
}


def write_run(
    folder: Path, measures: list[Measure], predictions: dict[str, list[dict[str, Any]]] | None = None, **model: Any
):
    """Writes a folder as of an evaluation; returns it."""
    sheet = ScoreSheet(measures, {**MODEL, **model}, config="tiny", seconds={"asr": 12.0})
    write_scores(sheet, folder / "scores.json")
    for name, rows in (predictions or {}).items():
        path = folder / "predictions" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def run_of(measures: list[Measure], folder: Path = Path()) -> Run:
    return Run("model", folder, ScoreSheet(measures))


def row(id: str, prediction: str | None, reference: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "task": "t",
        "prediction": prediction,
        "reference": reference,
        "audio_secs": 0.0,
        "audios": [],
        **more,
    }


def tone(path: Path, *parts: tuple[float, float], rate: int = RATE) -> dict[str, Any]:
    """Writes tones of (Hz, seconds) one after another; returns the whole file as an audio of a prediction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waves = [0.5 * np.sin(2 * np.pi * hertz * np.arange(round(secs * rate)) / rate) for hertz, secs in parts]
    sf.write(path, np.concatenate(waves), rate)
    return {"path": str(path), "offset": 0.0, "duration": None}


class Page(HTMLParser):
    """What a browser finds in a page.

    Attributes:
        tags: names and attributes of all elements.
        numbers: (value, text) of all `data` elements.
        scripts: texts of all scripts.
        text: everything that is not in a script or a style.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[float, str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data
        if self._inside == "data":
            self.numbers.append((float(self.tags[-1][1]["value"]), data))

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if attributes.get("id")}

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if attributes.get(name)]
