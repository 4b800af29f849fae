"""`examples/ablate_vtb.py` with a stub for the training: what is run, what is kept, what is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOTH = ["joint-seed1", "speech_only-seed1", "joint-seed2", "speech_only-seed2"]


def ablate(
    folder: Path, *overrides: str, faults: str = "", launcher: str = "basic"
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "examples" / "ablate_vtb.py"),
        *("--config-name", "experiment/forgetting"),
        "experiment/forgetting=joint,speech_only",
        "seed=1,2",
        f"sweep.directory={folder}",
        "sweep.runs_with=tests.helpers.sweep_stub",
        f"hydra/launcher={launcher}",
        *overrides,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SWEEP_STUB_FAULTS": faults}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def trained(folder: Path) -> list[str]:
    return (folder / "trained.txt").read_text().split()


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a run that fails and one that is killed, and its output."""
    folder = tmp_path_factory.mktemp("sweep")
    done = ablate(folder, faults="joint-seed2=exit speech_only-seed1=kill", launcher="local")
    (folder / "stdout.txt").write_text(done.stdout)
    assert done.returncode == 1, done.stderr
    return folder


def test_a_failed_run_stops_no_other_and_is_told_with_its_log(swept: Path) -> None:
    assert sorted(trained(swept)) == sorted(BOTH)
    ending = (swept / "stdout.txt").read_text().split("not done: ", 1)[1]
    assert "joint-seed2: the process ended with exit code 1" in ending
    assert "no such encoder" in ending
    assert f"log: {swept}/runs/joint-seed2/log.txt" in ending
    assert "speech_only-seed1: the process was ended by signal 9" in ending


def test_runs_beside_each_other_share_the_cores(swept: Path) -> None:
    """The launcher `local` starts two at a time."""
    threads = {(swept / "runs" / name / "threads.txt").read_text() for name in BOTH}
    assert threads == {str(max(1, (os.cpu_count() or 1) // 2))}


def test_the_report_has_what_was_done(swept: Path) -> None:
    found = report(swept)
    assert found["unfinished"].keys() == {"joint-seed2", "speech_only-seed1"}
    assert found["variants"]["joint"]["seeds"] == [1]
    page = (swept / "report.md").read_text()
    assert "## Not done" in page
    assert "no such encoder" in page


def test_again_only_what_is_missing_is_run(swept: Path) -> None:
    before = len(trained(swept))
    done = ablate(swept)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(swept)[before:] == ["speech_only-seed1", "joint-seed2"]
    found = report(swept)
    assert found["unfinished"] == {}
    joint, speech_only = (found["variants"][name]["measures"]["text.accuracy"] for name in ("joint", "speech_only"))
    assert (joint["value"], speech_only["value"]) == (90.75, 60.75)  # 181, 182 and 121, 122 of 200
    assert found["variants"]["speech_only"]["minus_reference"]["text.accuracy"]["value"] == -30
    verdicts = {one["claim"]: one["verdict"] for one in found["claims"]}
    assert verdicts["joint.text.accuracy >= speech_only.text.accuracy"] == "holds"
    assert verdicts["joint.text.accuracy >= full_finetuning.text.accuracy"] == "not measured"
    assert found["settings"] == {
        "variant.leave_out": {"joint": [], "speech_only": ["text_chat", "multimodal_conversation"]}
    }
    assert {path.name for path in swept.glob("*.png")} == {"scores.png", "differences.png"}


def test_another_configuration_is_refused_and_old_scores_are_not_taken_for_its_own(swept: Path) -> None:
    before = trained(swept)
    done = ablate(swept, "trainer.max_steps=7", "seed=1")
    assert done.returncode == 1
    assert "another trainer.max_steps; found 7; expected 384" in done.stdout
    assert trained(swept) == before
    assert report(swept)["variants"]["joint"]["seeds"] == [2]
    assert ablate(swept).returncode == 0  # with the old one, the scores count again
    assert trained(swept) == before
    assert report(swept)["variants"]["joint"]["seeds"] == [1, 2]


def test_what_decides_nothing_may_change(swept: Path) -> None:
    before = trained(swept)
    done = ablate(swept, "data.train_ds.num_workers=2", "evaluation.batch_size=8", "sweep.question=Why?")
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(swept) == before
    assert report(swept)["question"] == "Why?"


def test_other_tests_are_taken_by_the_trained_model(swept: Path) -> None:
    """The run starts again, to find its training done; it must not keep the old scores."""
    before = len(trained(swept))
    change = "evaluation.tasks.text.metric=rouge_l"
    failed = ablate(swept, change, "experiment/forgetting=joint", "seed=1", faults="joint-seed1=exit")
    assert failed.returncode == 1
    assert "evaluation.tasks.text.metric is another than before" in failed.stdout
    assert report(swept)["variants"]["joint"]["seeds"] == [2]
    assert ablate(swept, change).returncode == 0
    assert trained(swept)[before:] == [
        "joint-seed1",
        "joint-seed1",
        "speech_only-seed1",
        "joint-seed2",
        "speech_only-seed2",
    ]


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    killed = ablate(tmp_path, faults="joint-seed2=parent")
    assert killed.returncode == -signal.SIGKILL
    assert trained(tmp_path) == ["joint-seed1", "speech_only-seed1", "joint-seed2"]
    assert not (tmp_path / "report.json").exists()
    done = ablate(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained(tmp_path)[3:] == ["joint-seed2", "speech_only-seed2"]


def test_claims_are_read_before_anything_is_run(tmp_path: Path) -> None:
    done = ablate(tmp_path, "sweep.claims=[{claim: 'joint.text.accuracy is good'}]")
    assert done.returncode == 1
    assert "ConfigError: the claim cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "trained.txt").exists()


def test_kept_runs_are_not_made_again_elsewhere(swept: Path, tmp_path: Path) -> None:
    """The sweep is stopped after some runs, and goes on in another folder, as on another machine."""
    kept = tmp_path / "kept"
    first, second = tmp_path / "first", tmp_path / "second"
    assert ablate(first, f"sweep.keep_in={kept}", "seed=1").returncode == 0
    files = {path.name: path.read_bytes() for path in (kept / "runs").iterdir()}
    assert files.keys() == {"joint-seed1.json.gz", "speech_only-seed1.json.gz"}
    assert (kept / "report.md").read_text() == (first / "report.md").read_text()
    done = ablate(second, f"sweep.keep_in={kept}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(trained(second)) == ["joint-seed2", "speech_only-seed2"]
    assert report(second)["variants"] == report(swept)["variants"]
    assert len(list((kept / "runs").iterdir())) == 4
    assert {name: (kept / "runs" / name).read_bytes() for name in files} == files
    changed = ablate(tmp_path / "third", f"sweep.keep_in={kept}", "seed=1", "trainer.max_steps=7")
    assert changed.returncode == 1
    assert "another trainer.max_steps; found 7; expected 384" in changed.stdout
    (kept / "runs" / "joint-seed1.json.gz").write_bytes(files["joint-seed1.json.gz"][:50])
    damaged = ablate(tmp_path / "fourth", f"sweep.keep_in={kept}", "seed=1", "experiment/forgetting=joint")
    assert damaged.returncode == 1
    assert "a kept run cannot be read" in damaged.stdout
