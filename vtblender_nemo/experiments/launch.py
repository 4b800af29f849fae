"""What a sweep does beside Hydra's own multirun: one process for every run, and a report at the end.

Hydra composes the runs and its launcher starts `launch_run` for each, here, on SLURM or on a Ray cluster. A run is a
process of its own, so that one that fails, or that the system kills, leaves the others alone. Its folder has:

    job.yaml       the whole configuration
    settings.json  what of it decides the scores; a run with others is refused
    log.txt        what the run printed
    run.json       the scores: with it the run is done
    failure.json   why the last try ended, if it did
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtblender_nemo.common.errors import ConfigError, VTBlenderError
from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.experiments.keeping import keep, keep_report, take
from vtblender_nemo.experiments.settings import deciding_settings, read_sweep, read_variant

JOB_FILE = "job.yaml"
SETTINGS_FILE = "settings.json"
LOG_FILE = "log.txt"
RUN_FILE = "run.json"
FAILURE_FILE = "failure.json"
RUNS = "runs"
_LAST_LINES = 15
_OF_TESTS = ("evaluation.", "variant.ceilings", "variant.levels", "tiny.sets.generalisation")


def launch_run(cfg: DictConfig) -> None:
    """Makes one run of a sweep, unless it is done; a failure is noted and told, never raised.

    Args:
        cfg: the run's whole configuration, as Hydra composed it.
    """
    directory = Path(cfg.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    title = directory.name
    sweep = read_sweep(cfg)
    kept = None if sweep.keep_in is None else Path(sweep.keep_in)
    try:
        variant = read_variant(cfg)
        settings = deciding_settings(cfg)
        if kept is not None and not (directory / RUN_FILE).exists():
            take(directory, kept, seed=cfg.seed, variant=variant, settings=settings)
        _hold_to_settings(settings, directory)
        job = OmegaConf.to_yaml(cfg, resolve=True)
    except (VTBlenderError, OmegaConfBaseException) as error:
        _note_failure(directory, f"{type(error).__name__}: {error}")
        return
    (directory / FAILURE_FILE).unlink(missing_ok=True)
    if (directory / RUN_FILE).exists():
        if kept is not None:
            keep(directory, kept)
        _say(f"{title}: done before")
        return
    write_text(job, directory / JOB_FILE)
    _say(f"{title}: started, {directory / LOG_FILE}")
    started = time.monotonic()
    code, ending = _run(sweep.runs_with, directory)
    if code == 0 and (directory / RUN_FILE).exists():
        if kept is not None:
            keep(directory, kept)
        _say(f"{title}: done in {time.monotonic() - started:.0f} s")
    else:
        _note_failure(directory, f"{_exit_in_words(code)}\n{ending}".rstrip())


class Sweep(Callback):
    """Hydra's callback of a sweep: sees that its claims can be read before hours of work, and tells the end."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from vtblender_nemo.experiments.claims import read_claims

        try:
            read_claims(read_sweep(config).claims)
        except VTBlenderError as error:
            sys.exit(f"{type(error).__name__}: {error}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Exits with status 1 where a run is not done."""
        from vtblender_nemo.experiments.sweep_report import make_report

        sweep = read_sweep(config)
        try:
            report = make_report(sweep)
            if sweep.keep_in is not None:
                keep_report(Path(sweep.directory), Path(sweep.keep_in))
        except VTBlenderError as error:
            sys.exit(f"{type(error).__name__}: {error}")
        _say(report.summary)
        if report.unfinished:
            sys.exit(1)


def _hold_to_settings(settings: Mapping[str, Any], directory: Path) -> None:
    """Keeps a run's settings and refuses others; where its tests alone are others, its scores are given up, not its training."""
    path = directory / SETTINGS_FILE
    wanted = json.loads(json.dumps(settings))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else wanted
    different = [
        key for key in sorted({*kept, *wanted}) if kept.get(key) != wanted.get(key)
    ]  # new keys are null at first
    for key in different:
        if not key.startswith(_OF_TESTS):
            raise ConfigError(
                f"the folder holds a run with another {key}",
                path=path,
                value=wanted.get(key, "not set"),
                expected=repr(kept.get(key, "not set")),
                knob="sweep.directory, or delete the run's folder",
            )
    if different:
        _say(f"{directory.name}: {different[0]} is another than before, to be tested anew")
        (directory / RUN_FILE).unlink(missing_ok=True)
    write_json(wanted, path)


def _run(module: str, directory: Path) -> tuple[int, str]:
    """The exit code of a run's process, and the last lines that it printed."""
    path = directory / LOG_FILE
    paths = os.pathsep.join(entry for entry in sys.path if entry)  # it finds what this process finds
    with path.open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}, {module}\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**_share_of_cores(), **os.environ, "PYTHONPATH": paths},
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:  # this process is being stopped
                process.terminate()
                process.wait()
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return code, "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])


def _share_of_cores() -> dict[str, str]:
    """Threads for a run that has others beside it on this machine: with all cores for each, they would wait for each other."""
    launcher = HydraConfig.get().launcher if HydraConfig.initialized() else {}
    beside, cores = int(launcher.get("n_jobs") or 1), os.cpu_count() or 1
    beside = cores if beside < 0 else beside  # joblib's way to say all
    return {"OMP_NUM_THREADS": str(max(1, cores // beside))} if beside > 1 else {}


def _exit_in_words(code: int) -> str:
    if code < 0:
        return f"the process was ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return f"the process ended with exit code {code}" + ("" if code else f" but wrote no {RUN_FILE}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (what a sweep prints is its output)


def _note_failure(directory: Path, problem: str) -> None:
    log = directory / LOG_FILE
    write_json({"problem": problem, "log": str(log) if log.exists() else None}, directory / FAILURE_FILE)
    _say(f"{directory.name}: failed: {problem}")
