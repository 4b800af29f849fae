"""Stages that are made once and reused, and processes that work side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.common.files import write_json

PROGRESS_MARK = "» "  # what a process prints behind this mark goes to the screen, the rest to its log file


class StageError(VTBlenderError):
    """A process that makes a part of the tiny world failed."""


@dataclass(frozen=True)
class Stage:
    """A file or folder of the world, with a note of the settings that it was made with.

    It is made under another name and renamed when it is whole, so what has the final name is never half made.

    Attributes:
        directory: the world's folder.
        name: name of the file or folder.
        settings: whatever its making depends on, JSON-like; other settings make it anew. A note may hold more than these.
    """

    directory: Path
    name: str
    settings: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.directory / self.name

    @property
    def partial(self) -> Path:
        """Where it is made."""
        return self.directory / f"partial.{self.name}"

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints and caches, emptied when the settings change and removed at the end."""
        return self.directory / f"training.{self.name}"

    @property
    def _note(self) -> Path:
        return self.directory / f"{self.name}.made.json"

    def made(self) -> dict[str, Any] | None:
        """What `finish` was told, if the stage stands as the settings want it."""
        if not self._note.exists() or not self.path.exists():
            return None
        note = json.loads(self._note.read_text())
        fits = all(note["settings"].get(key) == value for key, value in _plain(self.settings).items())
        return note["report"] if fits else None

    def begin(self, *, goes_on: bool = False) -> None:
        """Clears what is stale; the scratch folder of the same settings stays: a stopped training continues from it.

        Args:
            goes_on: the making goes on with its own half-made result, so that of the same settings stays too.
        """
        mark = self.scratch / "settings.json"
        stopped = mark.exists() and json.loads(mark.read_text()) == _plain(self.settings)
        _remove(self.path)
        if not (stopped and goes_on):
            _remove(self.partial)
        self._note.unlink(missing_ok=True)
        if not stopped:
            _remove(self.scratch)
            self.scratch.mkdir(parents=True)
            mark.write_text(json.dumps(_plain(self.settings)))

    def finish(self, report: Mapping[str, Any]) -> None:
        """Gives the made file its name and notes the settings and a report."""
        self.partial.replace(self.path)
        write_json({"settings": _plain(self.settings), "report": report}, self._note)  # others may be waiting for it
        _remove(self.scratch)


def run_side_by_side(jobs: Mapping[str, Sequence[str]], logs: Path, log: Callable[[str], None]) -> dict[str, float]:
    """Runs Python modules as processes of one thread each and waits for all of them.

    Args:
        jobs: a title for the screen, and the module with its arguments.
        logs: folder for what the processes print besides progress.
        log: takes progress lines.

    Returns:
        Seconds that each job took.

    Raises:
        StageError: a process failed; the others are stopped, and the message ends with its last words.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # they find what this process finds
    }
    running: dict[str, subprocess.Popen[str]] = {}
    threads, secs = [], {}
    started = time.monotonic()

    def relay(title: str, process: subprocess.Popen[str]) -> None:
        with (logs / f"{title.replace(' ', '_')}.log").open("w") as file:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(PROGRESS_MARK):
                    log(f"{title}: {line.removeprefix(PROGRESS_MARK).rstrip()}")
                else:
                    file.write(line)
                    file.flush()
        process.wait()
        secs[title] = time.monotonic() - started

    try:
        for title, module in jobs.items():
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
            )
            running[title] = process
            threads.append(threading.Thread(target=relay, args=(title, process), daemon=True))
            threads[-1].start()
        while any(process.poll() is None for process in running.values()):
            if any(process.poll() for process in running.values()):
                break
            time.sleep(0.2)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
        for thread in threads:
            thread.join()
    for title, process in running.items():
        if process.returncode > 0 or (process.returncode < 0 and not any(p.returncode > 0 for p in running.values())):
            path = logs / f"{title.replace(' ', '_')}.log"
            words = "".join(path.read_text().splitlines(keepends=True)[-15:])
            raise StageError(f"the process for {title} failed with exit code {process.returncode}:\n{words}", path=path)
    return secs


def say(text: str) -> None:
    """Prints a progress line of a process that `run_side_by_side` started."""
    print(PROGRESS_MARK + text, flush=True)  # noqa: T201 (the parent process reads it)


def _plain(settings: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(settings))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
