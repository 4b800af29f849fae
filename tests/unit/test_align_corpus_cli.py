"""The command that aligns a corpus, from rows to a source that is interleaved; a ruler stands in for the recogniser."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from typer.testing import CliRunner, Result

from tests.helpers.corpus import RATE, wav_bytes, write_jsonl, write_ramp, write_tar
from vtblender_nemo.alignment import work as alignment_work
from vtblender_nemo.alignment.aligner import Aligned
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.data.word_times import WordTime, split_words
from vtblender_nemo.synthesis.work import Refused

SCRIPT = Path(__file__).parents[2] / "examples/align_corpus.py"


class Ruler:
    """Gives every word an equal part of the audio; digits have no times, and `misheard` is heard as something else."""

    sampling_rate = RATE

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def align(self, speech, transcripts):
        self.calls.append([round(float(samples[0]) * 100_000) for samples in speech])
        return [self._one(len(samples) / RATE, text) for samples, text in zip(speech, transcripts, strict=True)]

    def _one(self, secs: float, text: str) -> Aligned | Refused:
        if text == "unsaid":
            return Refused("not_aligned", text)
        words = split_words(text)
        each = secs / len(words)
        times = [
            WordTime(word, *((None, None) if word.isdigit() else (number * each, (number + 1) * each)))
            for number, word in enumerate(words)
        ]
        return Aligned(tuple(times), text.replace("misheard", "nothing of the kind"))


@pytest.fixture
def ruler(monkeypatch) -> Ruler:
    ruler = Ruler()
    monkeypatch.setattr(alignment_work, "open_aligner", lambda *given: ruler)
    return ruler


def run(*flags: Any) -> Result:
    spec = importlib.util.spec_from_file_location("align_corpus", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return CliRunner().invoke(script.app, ["--model", "ruler", *(str(flag) for flag in flags)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def made(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("shard_*/manifest.jsonl")) for row in read(path)]


def rejected(folder: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read(folder / "rejected.jsonl")}


def conversations(folder: Path) -> list:
    entries = [
        {**entry.source.config.__dict__} for entry in read_sources(folder / "input_cfg.yaml", sampling_rate=RATE)
    ]
    wanted = ("type", "name", "manifest_filepath", "tarred_audio_filepaths", "audio_dir", "prompts", "task")
    cfg = [{key: entry[key] for key in wanted if entry[key] is not None} for entry in entries]
    cfg = [{**entry, "interleave": {"prob": 1.0, "words": [1, 1], "switches": [2, 2], "min_secs": 0}} for entry in cfg]
    (only,) = read_sources(cfg, sampling_rate=RATE)
    return [only.source.conversation(index, random.Random(index)) for index in range(len(only.source))]


@pytest.fixture
def manifest(tmp_path) -> str:
    (tmp_path / "data/wav").mkdir(parents=True)
    write_ramp(tmp_path / "data/wav/r.wav", 4.0)
    (tmp_path / "data/wav/broken.wav").write_bytes(b"no audio")
    texts = ["one two three", "unsaid", "", "it is misheard", "room 42 is here", "a b"]
    rows: list[Any] = [
        {"id": f"r{n}", "audio_filepath": "wav/r.wav", "offset": 0.5 * n, "duration": 0.5, "text": text, "speaker": "s"}
        for n, text in enumerate(texts)
    ]
    rows += [
        {"id": "long", "audio_filepath": "wav/r.wav", "duration": 4.0, "text": "too long"},
        {"id": "short", "audio_filepath": "wav/r.wav", "duration": 0.05, "text": "too short"},
        {"id": "gone", "audio_filepath": "wav/gone.wav", "duration": 1.0, "text": "gone"},
        {"id": "broken", "audio_filepath": "wav/broken.wav", "duration": 1.0, "text": "broken"},
        "{no json",
    ]
    return write_jsonl(tmp_path / "data/asr.jsonl", rows)


def test_rows_get_their_alignment_and_the_rest_its_reason(manifest, tmp_path, ruler):
    output = tmp_path / "out"
    result = run("--input", manifest, "--output-dir", output, "--max-secs", 3)
    assert result.exit_code == 0, result.output
    assert "2 rows made of 11" in result.output
    first, last = made(output)
    assert first["alignment"] == [["one", 0.0, 0.16667], ["two", 0.16667, 0.33333], ["three", 0.33333, 0.5]]
    assert {key: first[key] for key in ("id", "audio_filepath", "offset", "duration", "text", "speaker")} == {
        "id": "r0",
        "audio_filepath": "wav/r.wav",
        "offset": 0.0,
        "duration": 0.5,
        "text": "one two three",
        "speaker": "s",
    }
    assert first["provenance"] == {
        "source": "r0",
        "place": f"{manifest}:1",
        "seed": 0,
        "aligned_by": "ruler",
        "wer": 0.0,
    }
    assert (last["id"], last["alignment"]) == ("r5", [["a", 0.0, 0.25], ["b", 0.25, 0.5]])
    assert rejected(output) == {
        "r1": "not_aligned",
        "r2": "empty_transcript",
        "r3": "asr_wer",
        "r4": "unknown_letters",
        "long": "too_long",
        "short": "too_short",
        "gone": "bad_audio",
        "broken": "bad_audio",
        "asr-11": "bad_row",
    }
    (heard, *_) = [one for one in conversations(output) if one.id == "r0"]
    assert heard.custom["task"] == "asr"
    assert heard.reference == "one two three"
    assert len(heard.custom["transcript"]) in (1, 2)


def test_limits_are_the_users(manifest, tmp_path, ruler):
    output = tmp_path / "out"
    flags = ["--max-unaligned", 0.25, "--max-wer", 2, "--max-secs", 4]
    assert run("--input", manifest, "--output-dir", output, *flags).exit_code == 0
    found = {row["id"]: row["alignment"] for row in made(output)}
    assert set(found) == {"r0", "r3", "r4", "r5", "long"}
    assert found["r4"][1] == ["42", None, None]


def test_a_stopped_job_goes_on_and_gives_the_same(manifest, tmp_path, ruler, monkeypatch):
    flags = ["--input", manifest, "--rows-per-shard", 2, "--batch-rows", 1]
    assert run(*flags, "--output-dir", tmp_path / "whole").exit_code == 0
    original = ruler.align
    calls = iter(range(3))

    def stopping(*given):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(ruler, "align", stopping)
    run(*flags, "--output-dir", tmp_path / "stopped")
    before = {path.name for path in (tmp_path / "stopped").glob("shard_*")}
    assert 0 < len(before) < 6
    monkeypatch.setattr(ruler, "align", original)
    assert run(*flags, "--output-dir", tmp_path / "stopped").exit_code == 0
    assert made(tmp_path / "stopped") == made(tmp_path / "whole")


def test_another_model_or_limit_is_another_job(manifest, tmp_path, ruler):
    flags = ["--input", manifest, "--output-dir", tmp_path / "out"]
    assert run(*flags).exit_code == 0
    result = run(*flags, "--max-wer", 1)
    assert result.exit_code == 2
    assert "--max-wer" in result.output
    assert run(*flags, "--model", "other").exit_code == 2


def test_tars_keep_their_shards_and_the_files_of_several_rows(tmp_path, ruler):
    """One manifest a tar, then one for both; `-sub1` names a further row of a file."""
    ramp = write_ramp(tmp_path / "r.wav", 2.0)
    tars = [
        write_tar(tmp_path / f"a_{n}.tar", {"x.wav": wav_bytes(ramp[8000 * n :]), "y.wav": wav_bytes(ramp[100:])})
        for n in range(2)
    ]
    rows = [
        {
            "id": f"{tar}-{n}",
            "audio_filepath": name,
            "offset": 0.25 * n,
            "duration": 0.5,
            "text": "a b",
            "shard_id": tar,
        }
        for tar in range(2)
        for n, name in enumerate(["x.wav", "x-sub1.wav", "y.wav"])
    ]
    parts = [write_jsonl(tmp_path / f"m_{n}.jsonl", rows[3 * n : 3 * n + 3]) for n in range(2)]
    one = write_jsonl(tmp_path / "m.jsonl", [rows[0], rows[3], *rows[1:3], *rows[4:]])
    wanted = [[0, 4000, 8100], [8000, 12000, 8100]]
    for manifests, output in ((parts, tmp_path / "parts"), ([one], tmp_path / "one")):
        ruler.calls.clear()
        inputs = [flag for path in manifests for flag in ("--input", path)]
        result = run(*inputs, "--tar", tars[0], "--tar", tars[1], "--output-dir", output)
        assert result.exit_code == 0, result.output
        assert ruler.calls == wanted
        assert [row["id"] for row in made(output)] == [row["id"] for row in rows]
        assert all(len(conversation.audios) in (1, 2) for conversation in conversations(output))


def test_lhotse_cuts_become_rows_of_a_manifest(tmp_path, ruler):
    write_ramp(tmp_path / "r.wav", 4.0)
    recording = Recording("r", [AudioSource("file", [0], "r.wav")], RATE, 4 * RATE, 4.0)
    cuts = [
        MonoCut(
            f"c{n}", 1.0 + n, 1.0, 0, [SupervisionSegment(f"s{n}", "r", 0.0, 1.0, text="a b c")], recording=recording
        )
        for n in range(2)
    ]
    path = write_jsonl(tmp_path / "cuts.jsonl", [cut.to_dict() for cut in cuts])
    output = tmp_path / "out"
    result = run("--input", path, "--output-dir", output)
    assert result.exit_code == 0, result.output
    assert ruler.calls == [[16000, 32000]]
    assert [(row["id"], row["offset"], row["text"]) for row in made(output)] == [
        ("c0", 1.0, "a b c"),
        ("c1", 2.0, "a b c"),
    ]
    assert [round(secs, 2) for _, secs, _ in made(output)[0]["alignment"]] == [0.0, 0.33, 0.67]
    heard = np.concatenate([audio.cut.load_audio()[0] for audio in conversations(output)[1].audios])
    assert 32000 <= round(float(heard[0]) * 100_000) < 48000


@pytest.mark.parametrize(
    ("flag", "value"), [("--max-secs", 0), ("--max-unaligned", 2), ("--max-wer", -1), ("--batch-size", 0)]
)
def test_limits_out_of_range_are_told_with_their_flag(manifest, tmp_path, ruler, flag, value):
    result = run("--input", manifest, "--output-dir", tmp_path / "out", flag, value)
    assert result.exit_code == 2
    assert flag in result.output


def test_nothing_aligned_is_told(tmp_path, ruler):
    write_ramp(tmp_path / "r.wav", 1.0)
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "r.wav", "duration": 1.0, "text": "unsaid"}])
    result = run("--input", path, "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 refused: not_aligned" in result.output
