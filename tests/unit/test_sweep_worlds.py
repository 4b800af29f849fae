"""One tiny world for many runs."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.experiments import worlds


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for the making of a world: notes that it was asked for, and who was inside at the same time."""
    log = tmp_path / "made.txt"

    def prepare(config: Any, directory: Path) -> SimpleNamespace:
        directory.mkdir(exist_ok=True)
        inside = directory / "inside"
        with log.open("a") as file:
            file.write("together\n" if inside.exists() else "alone\n")
        inside.touch()
        (directory / "config.json").write_text(json.dumps(asdict(config)))
        inside.unlink()
        return SimpleNamespace(report={"llm": {"accuracy": 90}})

    monkeypatch.setattr(worlds, "prepare", prepare)
    return log


def tiny(directory: Path, **llm: int) -> Any:
    return OmegaConf.create({"directory": str(directory), "llm": llm})


def test_it_is_made_and_found_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert worlds.shared_world(tiny(tmp_path / "world")) == {"llm": {"accuracy": 90}}


def test_another_world_never_takes_its_place(tmp_path: Path, made: Path) -> None:
    worlds.shared_world(tiny(tmp_path / "world", layers=4))
    with pytest.raises(ConfigError, match="of other settings") as raised:
        worlds.shared_world(tiny(tmp_path / "world", layers=6))
    assert "tiny.directory" in str(raised.value)
    assert made.read_text().splitlines() == ["alone"]
    faster = OmegaConf.create({"directory": str(tmp_path / "world"), "llm": {"layers": 4}, "voices": {"processes": 7}})
    worlds.shared_world(faster)


def test_a_run_waits_for_the_one_that_makes_the_world(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    inside, waiting = fork.Event(), fork.Event()
    make, lock = worlds.prepare, fcntl.flock

    def prepare(config: Any, directory: Path) -> Any:
        inside.set()
        assert waiting.wait(20), "the second run did not wait for the lock"
        return make(config, directory)

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX:
            waiting.set()
        lock(descriptor, operation)

    monkeypatch.setattr(worlds, "prepare", prepare)
    monkeypatch.setattr(worlds.fcntl, "flock", flock)
    first, second = (fork.Process(target=worlds.shared_world, args=(tiny(tmp_path / "world"),)) for _ in range(2))
    first.start()
    assert inside.wait(20)
    second.start()
    for run in (first, second):
        run.join()
        assert run.exitcode == 0
    assert made.read_text().splitlines() == ["alone", "alone"]


def test_whole_parts_of_another_world_are_linked_in(tmp_path: Path) -> None:
    source, target = tmp_path / "world", tmp_path / "small"
    (source / "content" / "speech").mkdir(parents=True)
    (source / "content" / "speech" / "a.wav").write_text("speech")
    (source / "content.made.json").write_text("{}")
    (source / "encoder.nemo").write_text("weights")  # without a note it is not whole
    worlds.shared_world(tiny(target), str(source))
    assert (target / "content" / "speech" / "a.wav").samefile(source / "content" / "speech" / "a.wav")
    assert (target / "content.made.json").exists()
    assert not (target / "encoder.nemo").exists()


def test_what_stands_is_not_taken_over(tmp_path: Path) -> None:
    for name in ("world", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "encoder.nemo").write_text(name)
        (tmp_path / name / "encoder.nemo.made.json").write_text("{}")
    worlds.shared_world(tiny(tmp_path / "small"), str(tmp_path / "world"))
    assert (tmp_path / "small" / "encoder.nemo").read_text() == "small"
