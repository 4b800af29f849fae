from __future__ import annotations

import json
import re
import struct
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.metrics import Score
from vtblender_nemo.evaluation.plots import read_history, write_plots
from vtblender_nemo.evaluation.report import Report, RunFacts, SourceShare, build_report, write_report
from vtblender_nemo.evaluation.runner import Scores, TaskResult
from vtblender_nemo.evaluation.tables import show_report


def score(value: float, items: int = 500) -> Score:
    return Score(value, value - 1, value + 1, items, "sig")


def scores(value: float, failed: int = 0, **groups: float) -> Scores:
    return Scores(score(value), {name: score(group, 100) for name, group in groups.items()}, failed)


def whole_report() -> Report:
    results = {
        "asr": TaskResult("wer", scores(3.5), {"silence": scores(140.0), "shuffle": scores(97.0)}),
        "ast": TaskResult("bleu", scores(88.25, de=87.0, es=90.0)),
        "sqa": TaskResult("exact_match", scores(94.0, failed=2), {"silence": scores(11.0), "text": scores(96.0)}),
        "mixed_modal": TaskResult(
            "exact_match",
            scores(85.0, question_spoken=96.0, both_spoken=74.0),
            {
                "silence": scores(20.0, question_spoken=8.0, both_spoken=32.0),
                "shuffle": scores(25.0, question_spoken=30.0, both_spoken=20.0),
            },
        ),
        "text": TaskResult("exact_match", scores(93.5, count=90.0, repeat=97.0)),
    }
    return build_report(
        results,
        base_text=TaskResult("exact_match", scores(94.5, count=91.0, repeat=98.0)),
        contrasts={
            "speech_only_lora": {
                "text": TaskResult("exact_match", scores(70.0)),
                "asr": TaskResult("wer", scores(3.25)),
            },
            "speech_only_unfrozen": {
                "text": TaskResult("exact_match", scores(5.0)),
                "asr": TaskResult("wer", scores(4.0)),
            },
        },
        facts=RunFacts(
            seconds={"joint": 251.5},
            sources={"asr": SourceShare(0.25, 0.26)},
            trained_parameters={"encoder": 2_040_000},
            about={"warm_start": True},
        ),
    )


def test_keys_that_stay():
    report = whole_report()
    assert report["asr"]["wer"] == 3.5
    assert report["ast"]["bleu"] == 88.25
    assert report["sqa"]["exact_match"] == 94.0
    assert report["mixed_modal"]["exact_match"] == 85.0
    assert (report["text"]["base_accuracy"], report["text"]["accuracy"]) == (94.5, 93.5)
    assert report["contrast"]["speech_only_lora"]["text_accuracy"] == 70.0
    assert report["contrast"]["speech_only_lora"]["asr_wer"] == 3.25
    assert report["contrast"]["speech_only_unfrozen"]["text_accuracy"] == 5.0
    assert report["seconds"] == {"joint": 251.5}
    assert report["sources"] == {"asr": {"weight_wanted": 0.25, "share_seen": 0.26}}
    assert report["trained_parameters"] == {"encoder": 2_040_000}
    assert report["about"] == {"warm_start": True}


def test_every_score_has_its_interval():
    report = whole_report()
    assert report["asr"]["interval"] == [2.5, 4.5]
    assert report["sqa"]["blind_interval"] == [10.0, 12.0]
    assert report["text"]["base_accuracy_interval"] == [93.5, 95.5]
    assert report["contrast"]["speech_only_lora"]["asr_wer_interval"] == [2.25, 4.25]
    assert report["mixed_modal"]["by_kind"]["both_spoken"] == {
        "exact_match": 74.0,
        "interval": [73.0, 75.0],
        "items": 100,
    }


def test_blind_is_the_best_that_was_reached_without_the_audio():
    report = whole_report()
    assert report["asr"]["blind"] == 97.0  # of error rates the lowest
    assert report["sqa"]["blind"] == 11.0  # the text twin is no blind score
    assert report["mixed_modal"]["blind"] == 25.0
    assert report["mixed_modal"]["blind_by"]["silence"]["by_kind"]["both_spoken"]["exact_match"] == 32.0
    assert report["sqa"]["text"]["exact_match"] == 96.0
    assert "blind" not in report["ast"]


def test_counts_and_signature_stand_beside_a_score():
    section = whole_report()["sqa"]
    assert (section["items"], section["failed"], section["signature"]) == (500, 2, "sig")


def test_report_without_contrast_or_base():
    report = build_report({"asr": TaskResult("wer", scores(3.5))})
    assert "contrast" not in report
    assert "text" not in report


def test_a_task_may_not_take_the_place_of_a_section():
    with pytest.raises(ConfigError, match="found \\['seconds'\\]"):
        build_report({"seconds": TaskResult("wer", scores(1.0))})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named(value):
    with pytest.raises(DataError, match=r"not finite.*sources\.asr\.share_seen"):
        build_report({}, facts=RunFacts(sources={"asr": SourceShare(0.5, value)}))


def test_report_file_is_the_report(tmp_path):
    report = whole_report()
    write_report(report, tmp_path / "results/report.json")
    assert json.loads((tmp_path / "results/report.json").read_text()) == report
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["report.json"]


def shown(report: Report, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    show_report(report, console)
    return console.file.getvalue()


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.parametrize("width", [80, 140])
def test_tables_show_every_part(width):
    text = shown(whole_report(), width)
    assert cells(text, "speech recognition") == ["speech recognition, WER", "3.5", "2.5 to 4.5", "97.0", "500"]
    assert cells(text, "speech questions")[-1] == "500 of 502"
    assert cells(text, "both spoken") == ["both spoken", "74.0", "73.0 to 75.0", "32.0", "100"]
    assert cells(text, "text skills") == ["text skills, accuracy", "93.5", "92.5 to 94.5", "94.5", "500"]
    assert cells(text, "count") == ["count", "90.0", "89.0 to 91.0", "91.0", "100"]
    assert cells(text, "speech only unfrozen")[1:] == ["5.0 (4.0 to 6.0)", "4.0 (3.0 to 5.0)"]
    assert cells(text, "asr") == ["asr", "0.250", "0.260"]
    assert cells(text, "trained parameters, encoder")[1] == "2,040,000"
    assert cells(text, "time, joint")[1] == "252 s"


def test_tables_leave_out_what_a_report_lacks():
    text = shown(build_report({"asr": TaskResult("wer", scores(3.5))}))
    assert "Contrasts" not in text
    assert "Training data" not in text


def history_file(folder: Path, *rows: dict) -> Path:
    path = folder / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_history_keeps_the_later_row_of_a_step_done_twice(tmp_path):
    rows = [(1, 5.0), (3, 9.0), (2, 3.5), (3, 3.0)]
    path = history_file(tmp_path, *({"step": s, "name": "train_loss/asr", "value": v} for s, v in rows))
    assert read_history(path) == {"train_loss/asr": {1: 5.0, 2: 3.5, 3: 3.0}}
    assert list(read_history(path)["train_loss/asr"]) == [1, 2, 3]


@pytest.mark.parametrize("bad", [{"step": "1", "name": "a", "value": 1.0}, {"step": 1, "name": "a"}])
def test_history_of_another_form_is_an_error(tmp_path, bad):
    good = {"step": 1, "name": "a", "value": 1.0}
    with pytest.raises(DataError, match=r"history\.jsonl:2: row of another form"):
        read_history(history_file(tmp_path, good, bad))


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_plots_are_drawn_for_what_there_is(tmp_path):
    history = {
        "train_loss/asr": {step: 4 / (step + 1) for step in range(50)},
        "train_loss/text": {10: 0.5, 20: float("nan"), 30: 0.4},
        "val/asr.wer": {25: 40.0, 50: 5.0},
        "val/text.accuracy": {25: 93.0, 50: 94.0},
    }
    written = write_plots(whole_report(), history, tmp_path / "plots")
    assert [path.name for path in written] == ["loss.png", "progress.png", "scores.png", "contrast.png"]
    assert all(min(png_size(path)) > 300 for path in written)
    few = write_plots(build_report({"asr": TaskResult("wer", scores(120.0))}), {}, tmp_path / "few")
    assert [path.name for path in few] == ["scores.png"]
