"""Stages that are reused, and processes side by side."""

from __future__ import annotations

import pytest

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.tiny.config import TinyConfig, config_from
from vtblender_nemo.tiny.stages import Stage, StageError, run_side_by_side


def make(stage, text="made", report=None):
    stage.begin()
    stage.partial.write_text(text)
    stage.finish(report or {"score": 1.0})


def test_a_finished_stage_is_reused_with_its_report(tmp_path):
    stage = Stage(tmp_path, "thing", {"size": 3, "names": ("a", "b")})
    assert stage.made() is None
    make(stage, report={"score": 2.5})
    assert Stage(tmp_path, "thing", {"size": 3, "names": ("a", "b")}).made() == {"score": 2.5}
    assert stage.path.read_text() == "made"
    assert not stage.partial.exists()
    assert not stage.scratch.exists()


def test_other_settings_make_it_anew(tmp_path):
    make(Stage(tmp_path, "thing", {"size": 3}), "old")
    other = Stage(tmp_path, "thing", {"size": 4})
    assert other.made() is None
    other.begin()
    assert not other.path.exists()


def test_a_stage_that_was_stopped_is_not_reused_but_its_scratch_is(tmp_path):
    stage = Stage(tmp_path, "thing", {"size": 3})
    stage.begin()
    stage.partial.write_text("half")
    (stage.scratch / "checkpoint").write_text("step 5")
    again = Stage(tmp_path, "thing", {"size": 3})
    assert again.made() is None
    again.begin()
    assert not again.partial.exists()
    assert (again.scratch / "checkpoint").read_text() == "step 5"
    Stage(tmp_path, "thing", {"size": 9}).begin()
    assert not (stage.scratch / "checkpoint").exists()


def test_a_stage_that_goes_on_keeps_what_is_half_made_of_the_same_settings(tmp_path):
    for size, kept in ((3, False), (3, True), (9, False)):
        stage = Stage(tmp_path, "thing", {"size": size})
        stage.begin(goes_on=True)
        assert stage.partial.exists() == kept
        stage.partial.write_text("half")


def test_a_stage_whose_file_was_deleted_is_made_anew(tmp_path):
    stage = Stage(tmp_path, "thing", {})
    make(stage)
    stage.path.unlink()
    assert stage.made() is None


def script(folder, name, text):
    (folder / f"{name}.py").write_text(text)
    return (name,)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_progress_goes_to_the_screen_and_the_rest_to_a_file(modules):
    said = []
    jobs = {
        "one": script(modules, "one", "print('noise'); print('» half done', flush=True)"),
        "two": script(modules, "two", "import sys; print('warning', file=sys.stderr)"),
    }
    secs = run_side_by_side(jobs, modules / "logs", said.append)
    assert said == ["one: half done"]
    assert (modules / "logs" / "one.log").read_text() == "noise\n"
    assert (modules / "logs" / "two.log").read_text() == "warning\n"
    assert set(secs) == {"one", "two"}


def test_a_failing_process_stops_the_others_and_shows_its_last_words(modules):
    jobs = {
        "slow": script(modules, "slow", "import time; time.sleep(600)"),
        "bad": script(modules, "bad", "raise RuntimeError('the disk is full')"),
    }
    with pytest.raises(StageError, match=r"(?s)bad failed with exit code 1.*the disk is full"):
        run_side_by_side(jobs, modules / "logs", lambda _: None)


def test_a_config_is_filled_from_a_mapping():
    config = config_from({"seed": 3, "voices": {"accents": ["en-us"]}, "llm": {"steps": 7}})
    assert config.seed == 3
    assert config.voices.accents == ("en-us",)
    assert config.voices.variants == TinyConfig().voices.variants
    assert config.llm.steps == 7
    assert config_from({}) == TinyConfig()


def test_an_unknown_key_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"tiny\.llm\.stepps.*muon_lr"):
        config_from({"llm": {"stepps": 7}})
