"""What synthesis commands share: flags, how errors and results are told; and the SLURM script, with SLURM and Ray played."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.helpers.synthesis_works import Tones, tree, write_chats
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.cli_options import (
    BatchRows,
    ChatInput,
    GpusPerWorker,
    Launcher,
    Name,
    OutputDir,
    RowsPerShard,
    Seed,
    Workers,
    errors_told,
    tell,
)
from vtblender_nemo.synthesis.engine.launchers import Launcher as LauncherKind
from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import open_chats

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "ray.sbatch"
app = typer.Typer()


@app.command()
def main(
    input: ChatInput,
    output_dir: OutputDir,
    seed: Seed = 0,
    launcher: Launcher = LauncherKind.local,
    workers: Workers = 1,
    rows_per_shard: RowsPerShard = 1000,
    batch_rows: BatchRows = 8,
    gpus_per_worker: GpusPerWorker = 0,
    name: Name = None,
) -> None:
    options = SynthesisOptions(seed, rows_per_shard, batch_rows, launcher, workers, gpus_per_worker, name=name)
    with errors_told():
        summary = synthesize(Tones(seed=seed), open_chats(input), output_dir, options)
    tell(summary, output_dir)


def called(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_result_is_told_with_reasons_and_what_to_do_next(tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", ["a", "refuse b", "refuse c", "silent d"])
    code, said = called("--input", chats, "--output-dir", tmp_path / "out", "--rows-per-shard", 2, "--seed", 3)
    assert code == 0
    made = len((tmp_path / "out" / "shard_000000" / "manifest.jsonl").read_text().splitlines())
    assert f"{made} rows made of 4 in 2 shards" in said
    assert said.index("2 refused: not_wanted") < said.index("1 refused: nothing_made")
    assert f"input_cfg={tmp_path / 'out' / 'input_cfg.yaml'}" in said
    assert (tmp_path / "out" / "rejected.jsonl").exists()


def test_several_inputs_and_workers(tmp_path: Path) -> None:
    inputs = [write_chats(tmp_path / "a.jsonl", ["a", "b"])]
    inputs.append(tmp_path / "b.jsonl")
    inputs[1].write_text(inputs[0].read_text().replace('"c', '"d'))
    several = [part for path in inputs for part in ("--input", path)]
    for number, workers in enumerate((1, 2)):
        code, said = called(
            *(*several, "--output-dir", tmp_path / str(number), "--name", "tones"),
            *("--workers", workers, "--rows-per-shard", 1),
        )
        assert code == 0, said
        assert "of 4 in 4 shards" in said
    assert tree(tmp_path / "0") == tree(tmp_path / "1")


def test_nothing_made_is_exit_code_1(tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", ["refuse a"])
    code, said = called("--input", chats, "--output-dir", tmp_path / "out")
    assert code == 1
    assert "warning: nothing was made of any row" in said


def test_mistake_of_the_user_is_exit_code_2(tmp_path: Path) -> None:
    code, said = called("--input", tmp_path / "none.jsonl", "--output-dir", tmp_path / "out")
    assert code == 2
    assert f"error: {tmp_path / 'none.jsonl'}: file is missing" in said
    assert "Traceback" not in said


def test_mistake_in_a_flag_that_stands_for_a_key_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"engines[].type": "--tts"}
    for knob, said in (("engines[12].type", "--tts (engines[12].type)"), ("spans.turns", "spans.turns")):
        with pytest.raises(typer.Exit), errors_told(flags):
            raise ConfigError("unknown", value="x", expected="y", knob=knob)
        assert capsys.readouterr().err == f"error: unknown; found 'x'; expected y (change it with: {said})\n"


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("seed, or --output-dir", "--seed (seed), or --output-dir"),
        ("rows_per_shard, or --output-dir", "--rows-per-shard (rows_per_shard), or --output-dir"),
        ("input.rows, or --output-dir", "--input (input.rows), or --output-dir"),
        ("work.work, or --output-dir", "another command (work.work), or --output-dir"),
        ("work.llm.seed, or --output-dir", "--seed (work.llm.seed), or --output-dir"),
        ("work.tones.pitch, or --output-dir", "--tts (work.tones.pitch), or --output-dir"),
        ("engines[0].name", "engines[0].name"),  # --name names another thing
        ('pip install "vtblender_nemo[synthesis]"', 'pip install "vtblender_nemo[synthesis]"'),
        ("the field id of the rows, or --input", "the field id of the rows, or --input"),
    ],
)
def test_keys_are_told_with_the_flags_of_the_command(capsys: pytest.CaptureFixture[str], knob: str, said: str) -> None:
    with pytest.raises(typer.Exit), errors_told({"work.tones": "--tts"}, app):
        raise ConfigError("unknown", knob=knob)
    assert capsys.readouterr().err == f"error: unknown (change it with: {said})\n"


def test_keys_without_a_flag_are_told_to_be_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with_config = typer.Typer()

    @with_config.command()
    def main(config: str = "") -> None: ...

    for knob, said in (
        ("engines[0].model, engines[0].speed", "engines[0].model, engines[0].speed in the file of --config"),
        ("work.speech.scripts, or --output-dir", "speech.scripts in the file of --config, or --output-dir"),
    ):
        with pytest.raises(typer.Exit), errors_told(None, with_config):
            raise ConfigError("unknown", knob=knob)
        assert capsys.readouterr().err == f"error: unknown (change it with: {said})\n"


def play(folder: Path, name: str, lines: str) -> None:
    """A program that stands for one of the cluster's; it notes its arguments."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{lines}\n')
    path.chmod(0o755)


@pytest.mark.parametrize("nodes", [1, 3])
def test_slurm_script_starts_ray_on_all_nodes_and_runs_the_command(tmp_path: Path, nodes: int) -> None:
    play(tmp_path, "srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    play(tmp_path, "hostname", 'if [ $# -gt 0 ]; then echo "10.0.0.1 fe80::1"; else echo node1; fi')
    play(tmp_path, "ray", 'if [ "$1" = start ]; then exec sleep 600; fi')
    started = f"until [ $(grep -c '^ray start' {tmp_path}/calls) = {min(nodes, 2)} ]; do sleep 0.05; done"  # in the background
    play(tmp_path, "work", started + '\necho "address $RAY_ADDRESS usage $RAY_USAGE_STATS_ENABLED"; exit 3')
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_CPUS_ON_NODE": "8",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_ID": "25001",
    }
    done = subprocess.run(
        [SCRIPT, "work", "--workers", "2 2"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3, done.stderr  # the command's own
    assert done.stdout == "address 10.0.0.1:25001 usage 0\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "work --workers 2 2" in calls
    starts = [call for call in calls if call.startswith("ray start")]
    assert all("--num-cpus=8 --num-gpus=2" in call and "--disable-usage-stats" in call for call in starts)
    assert sum("--head --node-ip-address=10.0.0.1 --port=25001" in call for call in starts) == 1
    steps = [call for call in calls if call.startswith("srun") and "ray start" in call]
    assert sum("--nodelist=node1" in call for call in steps) == 1
    joined = [call for call in steps if "--exclude=node1" in call and "--address=10.0.0.1:25001" in call]
    assert [f"--nodes={nodes - 1} " in call for call in joined] == [True] * (nodes > 1)


def test_slurm_script_ends_when_ray_cannot_be_started(tmp_path: Path) -> None:
    play(tmp_path, "srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    play(tmp_path, "hostname", "echo 10.0.0.1")
    play(tmp_path, "ray", "exit 1")
    slurm = {"SLURM_CPUS_ON_NODE": "8", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "1"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm}
    done = subprocess.run([SCRIPT, "echo", "done"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Ray's head could not be started on 10.0.0.1" in done.stderr
    assert "done" not in done.stdout


def test_slurm_script_without_a_command() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
