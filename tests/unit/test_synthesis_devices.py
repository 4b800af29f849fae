from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from tests.helpers.synthesis_works import run, write_chats
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.devices import check_gpus, open_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_falling_to_the_cpu_is_said(no_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_device("auto", "the recogniser", "gate.device") == torch.device("cpu")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        record.getMessage() == "no GPU is visible: the recogniser runs on the CPU (gate.device cpu says that it shall)"
    )


def test_cpu_that_was_asked_for_is_not_said(no_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_device("cpu", "the recogniser", "gate.device") == torch.device("cpu")
    assert not caplog.records


def test_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert open_device("auto", "x", "device") == torch.device("cuda")
    assert open_device("cuda:1", "x", "device") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"no such GPU for x; found 'cuda:2'; expected one of 2 .*device"):
        open_device("cuda:2", "x", "device")
    check_gpus(2, 1)
    with pytest.raises(ConfigError, match="at most 2 GPUs together"):
        check_gpus(3, 1)
    assert not caplog.records


@pytest.mark.parametrize(("wanted", "said"), [("cuda", "expected one of 0"), ("gpu", "auto, cpu, cuda or cuda:N")])
def test_device_that_is_not_there(no_gpu: None, wanted: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_device(wanted, "x", "device")
    check_gpus(100, 0)


def made(folder: Path) -> list[dict]:
    return [json.loads(line) for path in folder.glob("*/manifest.jsonl") for line in path.read_text().splitlines()]


def test_workers_see_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9,2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    (tmp_path / "flags").mkdir()
    chats = write_chats(tmp_path / "chats.jsonl", ["gpus meet", "gpus meet"])
    shared = {"workers": 2, "rows_per_shard": 1}
    run(chats, tmp_path / "out", tmp_path / "flags", gpus_per_worker=2, **shared)
    assert {row["gpus"] for row in made(tmp_path / "out")} == {"4,7", "9,2"}
    with pytest.raises(ConfigError, match=r"too few GPUs.*'2 workers with 3 each'; expected at most 4 .*--gpus-per-w"):
        run(chats, tmp_path / "few", tmp_path / "flags", gpus_per_worker=3, **shared)


def test_gpus_where_all_of_the_machine_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are chosen for one worker too."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chats = write_chats(tmp_path / "chats.jsonl", ["gpus"])
    run(chats, tmp_path / "one", gpus_per_worker=1)
    assert {row["gpus"] for row in made(tmp_path / "one")} == {"0"}
    for workers in (1, 2):
        with pytest.raises(ConfigError, match=rf"'{workers} workers with 3 each'; expected at most 2 GPUs"):
            run(chats, tmp_path / "few", workers=workers, gpus_per_worker=3)


def test_gpus_of_a_ray_that_is_started_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chats = write_chats(tmp_path / "chats.jsonl", ["a"])
    with pytest.raises(ConfigError, match=r"'3 workers with 1 each'; expected at most 2 GPUs"):
        run(chats, tmp_path / "out", launcher="ray", workers=3, gpus_per_worker=1)
