"""On a real SLURM of two nodes: `examples/slurm/train.sbatch` with a small program in the trainer's place, and a sweep."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.slurm import ROOT, run_on_cluster

pytestmark = pytest.mark.slow
TRAINER = f"""#!{sys.executable}
import os, signal, subprocess, sys
from pathlib import Path

def stop(*_):
    if rank == 0:
        checkpoint.write_text("a checkpoint")
    sys.exit(75)

mode, rank, job = sys.argv[2], int(os.environ["SLURM_PROCID"]), os.environ["SLURM_JOB_ID"]
checkpoint = Path(__file__).with_name(mode)
print(f"rank {{rank}} of {{os.environ['SLURM_NTASKS']}} {{sys.argv[3:]}} goes on: {{checkpoint.exists()}}", flush=True)
if mode == "finish" or checkpoint.exists():
    sys.exit(0)
if mode == "fail":
    os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else sys.exit(1)
if mode != "early":
    signal.signal(signal.SIGUSR1, stop)
    signal.signal(signal.SIGTERM, stop)
(checkpoint.parent / f"{{mode}}.{{rank}}").touch()
if rank == 0:
    while not (checkpoint.parent / f"{{mode}}.1").exists():
        pass
    if mode == "early":
        checkpoint.write_text("none, but the next start is to find it")
    asked = [job] if mode == "cancel" else ["--batch", "--signal=USR1", job]
    subprocess.run(["scancel", *asked], check=True)
while True:
    signal.pause()
"""
SUBMIT = """
set -euo pipefail
for mode in finish fail stop early cancel; do
    sbatch --parsable --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --time=10 --output="$FOLDER/$mode.out" \
        "$ROOT/examples/slurm/train.sbatch" $mode a=1 >>"$FOLDER/jobs"
done
MAX_REQUEUES=0 sbatch --parsable --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --time=10 \
    --output="$FOLDER/limit.out" "$ROOT/examples/slurm/train.sbatch" limit >>"$FOLDER/jobs"
while [[ -n "$(squeue --noheader)" ]]; do
    # a job that is queued again would wait two minutes; at once its nodes would take it for the one that was ended
    for job in $(squeue --noheader --format='%i %r' | awk '$2 == "BeginTime" {print $1}'); do
        [[ -e "$FOLDER/$job" ]] || scontrol update job="$job" StartTime=now+3
        touch "$FOLDER/$job"
    done
    sleep 0.2
done
xargs -I{} scontrol --oneliner show job {} <"$FOLDER/jobs"
"""


class Job(NamedTuple):
    state: str
    restarts: int
    exit_code: str
    said: str


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """How each way to end ends."""
    folder = tmp_path_factory.mktemp("slurm")
    trainer = folder / "trainer"
    trainer.write_text(TRAINER)
    trainer.chmod(0o755)
    states = run_on_cluster(folder / "c", "bash", "-c", SUBMIT, FOLDER=str(folder), ROOT=str(ROOT), PYTHON=str(trainer))
    modes = ["finish", "fail", "stop", "early", "cancel", "limit"]
    found = {}
    for mode, line in zip(modes, [line for line in states.splitlines() if line.startswith("JobId=")], strict=True):
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        said = (folder / f"{mode}.out").read_text()
        found[mode] = Job(fields["JobState"], int(fields["Restarts"]), fields["ExitCode"], said)
    return found


def test_every_process_gets_the_arguments_and_the_places_of_the_trainer(jobs: dict[str, Job]) -> None:
    assert jobs["finish"][:3] == ("COMPLETED", 0, "0:0"), jobs["finish"]
    for rank in range(2):
        line = f"rank {rank} of 2 ['a=1', 'trainer.num_nodes=2', 'trainer.devices=1']"
        assert jobs["finish"].said.count(line) == 1


def test_a_stopped_training_is_queued_again_and_goes_on(jobs: dict[str, Job]) -> None:
    job = jobs["stop"]
    assert job[:3] == ("COMPLETED", 1, "0:0"), job
    assert job.said.count("goes on: False") == 2  # and the second start writes behind the first
    assert job.said.count("goes on: True") == 2
    assert "queued again" in job.said


def test_whom_the_signal_met_before_it_could_handle_it_is_started_again(jobs: dict[str, Job]) -> None:
    assert jobs["early"][:3] == ("COMPLETED", 1, "0:0"), jobs["early"]


def test_a_failure_is_told_with_the_process_that_died_and_stays_one(jobs: dict[str, Job]) -> None:
    job = jobs["fail"]
    assert job[:3] == ("FAILED", 0, "137:0"), job
    assert re.search(r"n2: task 1: Killed", job.said)
    assert "failed with status 137; not queued again" in job.said


def test_a_cancelled_job_does_not_come_back(jobs: dict[str, Job]) -> None:
    assert jobs["cancel"][:2] == ("CANCELLED", 0), jobs["cancel"]


def test_a_job_is_queued_again_so_often_and_no_more(jobs: dict[str, Job]) -> None:
    assert jobs["limit"][:3] == ("FAILED", 0, "75:0"), jobs["limit"]
    assert "as it was 0 times" in jobs["limit"].said


def test_a_sweep_makes_its_runs_as_jobs_and_reports_them(tmp_path: Path) -> None:
    """The states of jobs are those that accounting would tell, which this cluster has not."""
    sweep = tmp_path / "sweep"
    said = run_on_cluster(
        tmp_path / "c",
        *(sys.executable, str(ROOT / "examples" / "ablate_vtb.py"), "--config-name", "experiment/forgetting"),
        *("experiment/forgetting=joint,speech_only", "seed=1,2", f"sweep.directory={sweep}"),
        *("sweep.runs_with=tests.helpers.sweep_stub", "hydra/launcher=slurm"),
        *("hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=null"),
        path=str(ROOT / "tests" / "recipes" / "bin"),
        PYTHONPATH=str(ROOT),
    )
    assert "holds: Text data keep text skills that speech data alone lose." in said
    report = json.loads((sweep / "report.json").read_text())
    assert report["variants"]["joint"]["seeds"] == [1, 2]
    assert not report["unfinished"]
    assert {path.name for path in (sweep / "slurm").glob("1_*")} == {"1_0", "1_1", "1_2", "1_3"}
