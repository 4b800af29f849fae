from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner, Result

from tests.helpers.listener import RATE, Listener, write_tone
from vtblender_nemo.models import loading

SCRIPT = Path(__file__).parents[2] / "examples/generate_vtb.py"


@pytest.fixture
def model(monkeypatch) -> Listener:
    """Stands in for the model that the script restores."""
    listener = Listener()
    listener.restored = []
    monkeypatch.setattr(
        loading, "load_model", lambda path, device: listener.restored.append((str(path), device)) or listener
    )
    return listener


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "model.nemo").write_bytes(b"weights")
    write_tone(tmp_path / "data/wav/a.wav", 10, secs=1)
    write_tone(tmp_path / "data/wav/b.wav", 20, secs=2)
    return tmp_path


def run(folder: Path, *rows: Any, flags: tuple[str, ...] = (), output: str = "out/out.jsonl") -> Result:
    manifest = folder / "data/in.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    manifest.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("generate_vtb", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = ["--model", folder / "model.nemo", "--manifest", manifest, "--output", folder / output]
    return CliRunner().invoke(script.app, [*map(str, paths), *flags])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_of_both_forms_are_answered_in_their_order(folder, model):
    rows = [
        {"audio_filepath": "wav/a.wav", "duration": 1.0, "text": "größe", "lang": "de"},
        {"messages": [{"role": "user", "content": "hello"}], "id": "m"},
        {"audio_filepath": str(folder / "data/wav/b.wav"), "offset": 0.5, "duration": 1.0},
        {"audio_filepath": "wav/b.wav", "offset": None, "duration": None},
    ]
    result = run(folder, *rows)
    assert result.exit_code == 0, result.output
    answers = ["Transcribe: heard 10", "hello", "Transcribe: heard 20", "Transcribe: heard 20"]
    assert rows_of(folder) == [row | {"prediction": answer} for row, answer in zip(rows, answers, strict=True)]
    assert list(rows_of(folder)[0]) == ["audio_filepath", "duration", "text", "lang", "prediction"]
    assert "größe" in (folder / "out/out.jsonl").read_text(encoding="utf-8")
    assert [path.name for path in (folder / "out").iterdir()] == ["out.jsonl"]


def test_part_of_a_file_is_heard(folder, model, monkeypatch):
    heard = []
    monkeypatch.setattr(Listener, "_say", lambda self, part: heard.append(getattr(part, "duration_secs", None)) or "")
    assert run(folder, {"audio_filepath": "wav/b.wav", "offset": 0.5, "duration": 0.75}).exit_code == 0
    assert heard == [None, pytest.approx(0.75)]


def test_flags_reach_the_model(folder, model):
    flags = ("--prompt", "Translate, please.", "--max-new-tokens", "7", "--batch-size", "1", "--device", "cpu")
    result = run(folder, {"audio_filepath": "wav/a.wav"}, {"audio_filepath": "wav/b.wav"}, flags=flags)
    assert result.exit_code == 0
    assert [row["prediction"] for row in rows_of(folder)] == [
        "Translate, please. heard 10",
        "Translate, please. heard 20",
    ]
    assert model.max_new_tokens == [7, 7]
    assert model.restored == [(str(folder / "model.nemo"), "cpu")]


BROKEN_ROWS = {
    "missing audio": ({"audio_filepath": "wav/none.wav"}, "none.wav: audio file is missing"),
    "no audio": ({"audio_filepath": "wav/text.wav"}, "text.wav: audio file cannot be opened"),
    "empty file": ({"audio_filepath": "wav/empty.wav"}, "empty.wav: audio file cannot be opened"),
    "span outside": ({"audio_filepath": "wav/a.wav", "offset": 5}, "does not lie in the audio"),
    "offset as text": ({"audio_filepath": "wav/a.wav", "offset": "1"}, "offset of an audio is no number"),
    "span of NaN": ({"audio_filepath": "wav/a.wav", "duration": float("nan")}, "does not lie in the audio"),
    "path as number": ({"audio_filepath": 5}, "audio is neither a path nor samples"),
    "nothing to answer": ({"text": "x"}, "either audio_filepath or messages"),
    "two inputs": ({"audio_filepath": "wav/a.wav", "messages": []}, "either audio_filepath or messages"),
    "no turns": ({"messages": []}, "conversation without turns"),
    "messages of a wrong kind": ({"messages": 5}, "messages are not a list"),
    "ends with an answer": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "the last turn has the wrong role",
    ),
    "message of a wrong kind": ({"messages": ["hello"]}, "message without role or content"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_a_faulty_row_fails_alone(folder, model, name):
    (folder / "data/wav/text.wav").write_text("no audio")
    (folder / "data/wav/empty.wav").write_bytes(b"")
    row, message = BROKEN_ROWS[name]
    result = run(folder, {"audio_filepath": "wav/a.wav"}, row, {"audio_filepath": "wav/b.wav"})
    assert result.exit_code == 1
    first, broken, last = rows_of(folder)
    assert (first["prediction"], last["prediction"]) == ("Transcribe: heard 10", "Transcribe: heard 20")
    assert message in broken.pop("error")
    assert json.dumps(broken) == json.dumps(row | {"prediction": None})
    assert "3 rows, 1 of them failed" in result.output


@pytest.mark.parametrize(("line", "message"), [("{broken", "JSON"), ("", "blank line"), ("[1]", "not a JSON object")])
def test_a_line_that_is_no_row_keeps_its_place(folder, model, line, message):
    result = run(folder, {"audio_filepath": "wav/a.wav"}, line, {"audio_filepath": "wav/b.wav"}, "", "")
    assert result.exit_code == 1
    first, broken, last = rows_of(folder)
    assert (first["prediction"], last["prediction"]) == ("Transcribe: heard 10", "Transcribe: heard 20")
    assert broken["prediction"] is None
    assert "in.jsonl:2: " in broken["error"]
    assert message in broken["error"]


def test_predictions_and_errors_of_an_earlier_run_are_replaced(folder, model):
    run(folder, {"audio_filepath": "wav/a.wav", "prediction": None, "error": "old"})
    assert rows_of(folder) == [{"audio_filepath": "wav/a.wav", "prediction": "Transcribe: heard 10"}]


def test_after_a_failure_only_the_failed_row_is_tried_again(folder, model):
    rows = [{"audio_filepath": "wav/a.wav"}, {"audio_filepath": "wav/c.wav"}]
    assert run(folder, *rows).exit_code == 1
    write_tone(folder / "data/wav/c.wav", 30)
    model.batches.clear()
    assert run(folder, *rows).exit_code == 0
    assert model.batches == [["line 2"]]
    assert [row["prediction"] for row in rows_of(folder)] == ["Transcribe: heard 10", "Transcribe: heard 30"]


def test_rows_that_look_alike_are_all_answered(folder, model):
    run(folder, *[{"audio_filepath": "wav/a.wav"}] * 3)
    assert [row["prediction"] for row in rows_of(folder)] == ["Transcribe: heard 10"] * 3


@pytest.mark.parametrize(
    ("rows", "output", "message"),
    [
        ([], "out.jsonl", "file without rows"),
        ([{"audio_filepath": "wav/a.wav"}], "data/in.jsonl", "the output would replace the manifest"),
        ([{"audio_filepath": "wav/a.wav"}], "data", "the output is a folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_model_is_loaded(folder, model, rows, output, message):
    result = run(folder, *rows, output=output)
    assert result.exit_code == 2
    assert f"error: {folder / 'data'}" in result.output.replace("\n", "") or message in result.output
    assert message in result.output
    assert model.restored == []


def test_a_trained_model_answers(folder, vtblender):
    (folder / "model.nemo").unlink()
    vtblender.save_to(str(folder / "model.nemo"))
    messages = [{"role": "user", "content": [{"type": "audio", "audio": str(folder / "data/wav/a.wav")}]}]
    result = run(
        folder,
        {"audio_filepath": "wav/a.wav"},
        {"messages": messages},
        {"audio_filepath": "wav/none.wav"},
        flags=("--max-new-tokens", "5", "--device", "cpu"),
    )
    assert result.exit_code == 1, result.output
    transcribe = [{"role": "user", "content": [{"type": "text", "text": "Transcribe:"}, messages[0]["content"][0]]}]
    expected = [vtblender.generate([one], max_new_tokens=5)[0] for one in (transcribe, messages)]
    assert [row["prediction"] for row in rows_of(folder)] == [*expected, None]


def test_help_is_quick_and_shows_an_example():
    """Heavy imports would cost every `--help` 15 seconds; they are looked for, as time depends on the machine."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['generate_vtb.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "print('HEAVY', sorted({'torch', 'nemo', 'transformers', 'lhotse'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stdout
    assert "python examples/generate_vtb.py --model" in result.stdout


def test_long_audio_is_asked_about_part_by_part(folder, model):
    """Three loudnesses with silence between, parted there."""
    samples = np.concatenate([np.full(int(1.9 * RATE), 0.1 * n, np.float32) for n in (1, 2, 3)])
    for pause in (1.8, 3.7):
        samples[int(pause * RATE) : int((pause + 0.1) * RATE)] = 0
    sf.write(folder / "data/wav/long.wav", samples, RATE, subtype="FLOAT")
    rows = [
        {"audio_filepath": "wav/long.wav"},
        {"audio_filepath": "wav/a.wav"},
        {"messages": [{"role": "user", "content": "hi"}]},
    ]
    flags = ("--part-secs", "2", "--subtitles", str(folder / "srt"))
    result = run(folder, *rows, flags=flags)
    assert result.exit_code == 0, result.output
    long, short, text = rows_of(folder)
    assert long["prediction"] == "Transcribe: heard 10 Transcribe: heard 20 Transcribe: heard 30"
    assert [one["text"] for one in long["segments"]] == [f"Transcribe: heard {10 * n}" for n in (1, 2, 3)]
    times = [(one["start"], one["end"]) for one in long["segments"]]
    assert times[0][0] == 0
    assert times[-1][1] == pytest.approx(5.7, abs=1e-3)
    assert (
        [end for _, end in times[:-1]]
        == [start for start, _ in times[1:]]
        == [pytest.approx(1.85, abs=0.05), pytest.approx(3.75, abs=0.05)]
    )
    assert short["segments"] == [{"start": 0.0, "end": 1.0, "text": "Transcribe: heard 10"}]
    assert text["prediction"] == "hi"
    assert sorted(path.name for path in (folder / "srt").iterdir()) == ["wav_a.srt", "wav_long.srt"]
    first = (folder / "srt/wav_long.srt").read_text().splitlines()[:3]
    assert first == ["1", f"00:00:00,000 --> 00:00:01,{round(times[0][1] * 1000) - 1000}", "Transcribe: heard 10"]
    assert run(folder, rows[0], flags=("--part-secs", "1")).exit_code == 2
    assert "parts to be timed by" in run(folder, rows[0], flags=("--subtitles", "x")).output


def generate(folder: Path, source: Path, *flags: str, output: str = "out/out.jsonl") -> Result:
    spec = importlib.util.spec_from_file_location("generate_vtb", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = ["--model", folder / "model.nemo", "--input", source, "--output", folder / output]
    return CliRunner().invoke(script.app, [*map(str, paths), *flags])


def test_a_folder_of_audio_is_answered_in_the_order_of_names(folder, model):
    write_tone(folder / "data/wav/more/c.FLAC", 30)
    (folder / "data/wav/notes.txt").write_text("no audio")
    (folder / "data/wav/broken.wav").write_text("no audio")
    assert generate(folder, folder / "data/wav", output="out/out.json").exit_code == 1
    rows = json.loads((folder / "out/out.json").read_text())
    assert [row["audio_filepath"] for row in rows] == ["a.wav", "b.wav", "broken.wav", "more/c.FLAC"]
    assert [row["prediction"] for row in rows] == [
        "Transcribe: heard 10",
        "Transcribe: heard 20",
        None,
        "Transcribe: heard 30",
    ]
    result = generate(folder, folder / "out")
    assert result.exit_code == 2
    assert "no audio in the folder" in result.output


def test_sources_without_transcripts_are_answered(folder, model):
    """NeMo manifests by a YAML file, Lhotse cuts, and Lhotse shar."""
    from lhotse import CutSet, Recording

    files = [folder / f"data/wav/{name}.wav" for name in "ab"]
    cuts = CutSet.from_cuts([Recording.from_file(path).to_cut().with_id(path.stem) for path in files])
    cuts.to_file(folder / "cuts.jsonl.gz")
    (folder / "shar").mkdir()
    cuts.to_shar(folder / "shar", fields={"recording": "wav"})
    rows = [{"audio_filepath": "wav/a.wav", "duration": 1.0}, {"audio_filepath": "wav/b.wav", "duration": 2.0}]
    (folder / "data/nemo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"- {{type: nemo, manifest_filepath: {folder / 'data/nemo.jsonl'}, prompts: [x]}}\n"
    (folder / "sources.yaml").write_text(source)
    for source in ("cuts.jsonl.gz", "shar", "sources.yaml"):
        result = generate(folder, folder / source)
        assert result.exit_code == 0, result.output
        rows = rows_of(folder)
        assert [row["prediction"] for row in rows] == ["Transcribe: heard 10", "Transcribe: heard 20"], source
        assert not any(name.startswith("_") for row in rows for name in row)
