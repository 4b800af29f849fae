"""Checkpoint files: whole or not there, held against their hash, and no code inside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.training.checkpoints import files
from vtblender_nemo.training.checkpoints.files import CheckpointFiles

STATE = {"global_step": 3, "state_dict": {"w": torch.arange(6.0)}, "loops": {"a": [1, 2], "b": (None, True, "text")}}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = [found["state_dict"]["w"] for found in (one, other)]
    rest = [{key: value for key, value in found.items() if key != "state_dict"} for found in (one, other)]
    return torch.equal(*weights) and rest[0] == rest[1]


def test_names_are_in_the_order_of_steps_and_of_validation(tmp_path: Path) -> None:
    wanted = [(3, False), (3, True), (20, False), (100000000, False)]
    for step, validated in reversed(wanted):
        files.write(STATE, tmp_path / files.checkpoint_name(step, validated=validated))
    (tmp_path / "best.ckpt").touch()
    names = [path.name for path in files.checkpoints_in(tmp_path)]
    assert names == [files.checkpoint_name(step, validated=validated) for step, validated in wanted]


def test_the_hash_is_one_that_others_can_check(tmp_path: Path) -> None:
    path = tmp_path / files.checkpoint_name(1, validated=False)
    files.write(STATE, path)
    assert subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=tmp_path, check=False).returncode == 0
    assert same(CheckpointFiles().load_checkpoint(path), STATE)
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failed_write_leaves_what_was_there_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    kept = CheckpointFiles(asynchronous=asynchronous)
    old, new = (tmp_path / files.checkpoint_name(step, validated=False) for step in (1, 2))
    kept.save_checkpoint(STATE, old)
    kept.wait()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        kept.save_checkpoint(STATE, new)
        kept.remove_checkpoint(old)
        kept.wait()
    assert kept.failed
    assert "No space left" in str(kept.take_failure())
    assert not kept.failed
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".sha256")] == [old.name]
    kept.save_checkpoint(STATE, new)
    kept.remove_checkpoint(old)
    kept.teardown()
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, f"{new.name}.sha256"]


def test_a_write_that_fails_over_an_older_file_leaves_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / files.checkpoint_name(1, validated=False)
    files.write(STATE, path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            files.write({"global_step": 9}, path)
    assert same(CheckpointFiles().load_checkpoint(path), STATE)


@pytest.mark.parametrize("harm", ["flipped", "cut", "no_hash", "empty_hash", "gone"])
def test_the_newest_whole_one_is_found(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    old, new = (tmp_path / files.checkpoint_name(step, validated=False) for step in (1, 2))
    for path in (old, new):
        files.write(STATE, path)
    beside = new.with_name(f"{new.name}.sha256")
    content = new.read_bytes()
    if harm == "flipped":
        new.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    elif harm == "cut":
        new.write_bytes(content[:-1])
    elif harm == "no_hash":
        beside.unlink()
    elif harm == "empty_hash":
        beside.write_text("")
    else:
        new.unlink()
    assert files.newest_whole(tmp_path) == old
    assert same(CheckpointFiles().load_checkpoint(tmp_path), STATE)
    assert ("set aside" in caplog.text) == (harm != "gone")
    if harm != "gone":
        with pytest.raises(ModelFileError, match=r"damaged|not found"):
            files.verify(new.with_name(f"{new.name}.damaged"))


class Hostile:
    """What would write a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._path}",)


@pytest.mark.parametrize("forced", [None, "1"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str | None) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    path, marker = tmp_path / files.checkpoint_name(1, validated=False), tmp_path / "was_here"
    files.write({"state_dict": Hostile(marker)}, path)
    with pytest.raises(ModelFileError, match="safely"):
        CheckpointFiles().load_checkpoint(path)
    assert not marker.exists()


def test_a_copy_is_written_whatever_becomes_of_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread begins only when the weights have changed."""
    import threading

    may_write, write = threading.Event(), files.write
    monkeypatch.setattr(files, "write", lambda *given: may_write.wait(10) and write(*given))
    weights = torch.zeros(3)
    kept = CheckpointFiles(asynchronous=True)
    kept.save_checkpoint(
        {"w": weights, "nested": [{"w": weights}]}, tmp_path / files.checkpoint_name(1, validated=False)
    )
    weights += 1
    may_write.set()
    kept.teardown()
    found = CheckpointFiles().load_checkpoint(tmp_path)
    assert found["w"].tolist() == found["nested"][0]["w"].tolist() == [0, 0, 0]
