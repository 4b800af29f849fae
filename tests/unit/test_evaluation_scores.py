from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet, read_scores, write_scores

WER = Measure("asr", "asr", "wer_percent", 2.5, 1.9, 3.2, 500, better="lower", signature="jiwer:4.0")
GAP = Measure(
    "sqa", "sqa", "f1_percent", -4.0, -6.0, -2.0, 90, failed=2, variant="minus_text_twin", group="language=de"
)
SHEET = ScoreSheet([WER, GAP], {"name": "m", "sha256": "ab"}, {"name": "base"}, "tiny", {"asr": 1.5}, {"asr": "0f"})


def test_what_is_written_is_read(tmp_path):
    write_scores(SHEET, tmp_path / "out/scores.json")
    assert read_scores(tmp_path / "out/scores.json") == SHEET
    assert read_scores(tmp_path / "out") == SHEET
    content = json.loads((tmp_path / "out/scores.json").read_text())
    assert list(content) == ["format", "model", "base", "config", "seconds", "item_sets", "measures"]
    assert content["format"] == 1
    assert content["measures"][1] == asdict(GAP)


def test_sheets_of_earlier_versions_are_read(tmp_path):
    write_scores(SHEET, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    del content["item_sets"]
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert read_scores(tmp_path) == replace(SHEET, item_sets={})


def test_places_and_tasks():
    assert WER.place == "asr.wer_percent"
    assert GAP.place == "sqa.f1_percent[minus_text_twin, language=de]"
    assert SHEET.of_task("sqa") == [GAP]


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (
            replace(WER, value=float("nan")),
            r"scores\.json: no finite number at measures\[0\]\.value \(asr\.wer_percent\)",
        ),
        (replace(WER, high=float("inf")), r"measures\[0\]\.high"),
        (replace(WER, better="up"), r"measures\[0\]\.better; found 'up'; expected one of lower, higher, none"),
        (replace(WER, items=-1), r"measures\[0\]\.items"),
        (replace(WER, task=""), r"measures\[0\]\.task"),
    ],
)
def test_a_wrong_measure_is_not_written(tmp_path, measure, message):
    with pytest.raises(DataError, match=message):
        write_scores(ScoreSheet([measure]), tmp_path / "scores.json")
    assert list(tmp_path.iterdir()) == []


def test_two_measures_of_one_place_are_not_written(tmp_path):
    with pytest.raises(DataError, match=r"two measures of one place, asr\.wer_percent"):
        write_scores(ScoreSheet([WER, GAP, replace(WER, value=2.0)]), tmp_path / "scores.json")


def broken(tmp_path, change):
    write_scores(SHEET, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    change(content)
    (tmp_path / "scores.json").write_text(json.dumps(content))
    return tmp_path / "scores.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), 'unknown format; found 2; expected "format": 1'),
        (lambda c: c.pop("seconds"), "expected a JSON value of type dict at seconds"),
        (lambda c: c["seconds"].update(asr=None), r"no finite number at seconds\.asr"),
        (lambda c: c["measures"][1].pop("low"), r"missing field in measures\[1\]; found \['low'\]"),
        (lambda c: c["measures"][0].update(colour="red"), r"unknown field in measures\[0\]; found \['colour'\]"),
        (lambda c: c["measures"][0].update(value="2.5"), r"no finite number at measures\[0\]\.value.*found '2\.5'"),
        (lambda c: c["measures"][0].update(value=float("nan")), r"measures\[0\]\.value.*found nan"),
        (lambda c: c["measures"].append(3), r"measures\[2\] is no measure"),
    ],
)
def test_a_wrong_file_is_told_by_file_and_place(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"scores\.json: .*{message}"):
        read_scores(broken(tmp_path, change))


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(DataError, match=r"scores\.json: file is missing.*evaluate_vtb"):
        read_scores(tmp_path)
    (tmp_path / "scores.json").write_text('{\n"format": 1,\n}')
    with pytest.raises(DataError, match=r"scores\.json:3: scores are no JSON"):
        read_scores(tmp_path)


def test_reading_scores_needs_no_heavy_package():
    code = "import sys, vtblender_nemo.evaluation.scores; print(sorted({'torch', 'numpy', 'omegaconf'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
