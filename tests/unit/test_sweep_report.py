"""The report of a sweep beside what its command shows: order, lines over a number, seeds that do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.experiments import sweep_plots
from vtblender_nemo.experiments.measures import Measured, RunScores, write_run
from vtblender_nemo.experiments.settings import SweepConfig
from vtblender_nemo.experiments.sweep_report import make_report


def add_run(
    folder: Path,
    variant: str,
    seed: int,
    value: float,
    x: float | None = None,
    line: str = "",
    bases: str = "one",
    **settings: object,
) -> None:
    run = folder / "runs" / f"{variant}-seed{seed}"
    run.mkdir(parents=True)
    measured = Measured(value, 100, 0, "d", value + np.random.default_rng(0).normal(0, 0.5, 500), "lower")
    write_run(
        RunScores(variant, seed, x, {"asr.wer": measured}, {"training": 60.0}, {"bases": {"llm": bases}}, line), run
    )
    (run / "settings.json").write_text(json.dumps({"variant.name": variant, **settings}))


def sweep_of(folder: Path, **values: object) -> SweepConfig:
    return SweepConfig(name="s", directory=str(folder), measures=["asr.wer", "asr.cer"], **values)  # type: ignore[arg-type]


def ranks(folder: Path) -> None:
    for rank in (4, 16, 64):
        for seed in (1, 2):
            add_run(
                folder, f"r{rank}", seed, 10 / rank + seed, x=rank, **{"model.lora.r": rank, "trainer.max_steps": 9}
            )


def test_variants_stand_in_order_of_their_number(tmp_path: Path) -> None:
    ranks(tmp_path)
    report = make_report(sweep_of(tmp_path, reference="r16"))
    assert list(report.values["variants"]) == ["r4", "r16", "r64"]
    assert report.values["settings"] == {"model.lora.r": {"r4": 4, "r16": 16, "r64": 64}}
    difference = report.values["variants"]["r4"]["minus_reference"]["asr.wer"]
    assert difference["value"] == difference["by_seed"][1] == 1.875
    assert difference["interval"] == [1.875, 1.875]  # the same items, and the same seeds
    assert "asr.cer" not in report.values["variants"]["r4"]["measures"]
    assert "| r4 | 2 | +1.88 (+1.88 to +1.88) |" in (tmp_path / "report.md").read_text()


def test_a_named_order_comes_first(tmp_path: Path) -> None:
    ranks(tmp_path)
    assert list(make_report(sweep_of(tmp_path, order=["r64", "r4"])).values["variants"]) == ["r64", "r4", "r16"]


def test_a_number_that_is_turned_is_an_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.update({Path(path).stem: figure}))
    ranks(tmp_path)
    make_report(sweep_of(tmp_path, reference="r16", x_label="rank", x_log=True))
    assert figures.keys() == {"scores", "differences"}
    (axes,) = figures["scores"].axes  # one measure was measured
    assert axes.get_xlabel() == "rank"
    assert axes.get_xscale() == "log"
    assert [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 3] == [[4, 16, 64]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "16", "64"]


def test_variants_that_share_more_than_the_number_have_lines_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.update({Path(path).stem: figure}))
    for line, value in (("imitation", 5.0), ("sft", 9.0)):
        for minutes in (10, 40, 160):
            add_run(tmp_path, f"{line}_{minutes}", 1, value, x=minutes, line=line)
    make_report(sweep_of(tmp_path, x_label="minutes"))
    (axes,) = figures["scores"].axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3}
    assert drawn == {"imitation": [5.0] * 3, "sft": [9.0] * 3}
    assert axes.get_legend() is not None


def test_no_run_gives_a_report_without_plots(tmp_path: Path) -> None:
    report = make_report(sweep_of(tmp_path, claims=[{"claim": "a.asr.wer <= 1", "says": "Good."}]))
    assert report.values["claims"][0]["verdict"] == "not measured"
    assert not report.unfinished
    assert not list(tmp_path.glob("*.png"))


def test_a_run_that_was_begun_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a-seed1").mkdir(parents=True)
    assert "not done" in make_report(sweep_of(tmp_path)).unfinished["a-seed1"]


def test_seeds_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    add_run(tmp_path, "a", 1, 5.0, **{"trainer.max_steps": 9})
    add_run(tmp_path, "a", 2, 5.0, **{"trainer.max_steps": 2})
    with pytest.raises(ConfigError, match="seeds of a were run with a different trainer.max_steps"):
        make_report(sweep_of(tmp_path))


def test_bars_show_the_reference_apart(tmp_path: Path) -> None:
    ranks(tmp_path)
    report = make_report(sweep_of(tmp_path, reference="r4"))
    assert {path.name for path in tmp_path.glob("*.png")} == {"scores.png", "differences.png"}
    assert sweep_plots.write_plots(report.values, ["nothing.was_measured"], tmp_path) == []


def test_runs_that_were_to_share_their_bases_and_do_not_are_named(tmp_path: Path) -> None:
    """Two machines made the world of a sweep; the larger LLM is another by intention."""
    for variant, seed, bases in (("joint", 1, "one"), ("joint", 2, "two"), ("speech_only", 1, "one")):
        add_run(tmp_path, variant, seed, 5.0, bases=bases, **{"tiny.llm.hidden": 192})
    add_run(tmp_path, "large", 1, 5.0, bases="three", **{"tiny.llm.hidden": 256})
    report = make_report(sweep_of(tmp_path, order=["joint", "speech_only", "large"]))
    assert report.values["different_bases"] == [["joint-seed1", "speech_only-seed1"], ["joint-seed2"]]
    assert "- joint-seed1, speech_only-seed1\n- joint-seed2\n" in (tmp_path / "report.md").read_text()


def test_runs_that_share_their_bases_are_not(tmp_path: Path) -> None:
    ranks(tmp_path)
    assert make_report(sweep_of(tmp_path)).values["different_bases"] == []
    assert "Different bases" not in (tmp_path / "report.md").read_text()
