"""What the synthesis engine itself costs: rows per second of a work that does nothing.

    python -m tests.benchmark.synthesis_rate --rows 100000 --workers 1

Rows are chats of two turns; with `--clip-secs 3` every row also gets a clip of noise of that length, which is made once:
then FLAC and the tar are what is measured.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tests.helpers.synthesis_works import write_chats
from vtblender_nemo.synthesis.cli_options import BatchRows, Launcher, RowsPerShard, Workers
from vtblender_nemo.synthesis.engine.launchers import Launcher as LauncherKind
from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import open_chats
from vtblender_nemo.synthesis.work import Clip, InputRow, Made, Outcome, Work

RATE = 16000


@dataclass(frozen=True)
class Nothing(Work):
    """Gives every row back, with one and the same clip."""

    clip_secs: float

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def open(self) -> _Idle:
        return _Idle(self.clip_secs)


class _Idle:
    def __init__(self, clip_secs: float) -> None:
        self._samples = np.random.default_rng(0).uniform(-0.3, 0.3, round(clip_secs * RATE)).astype(np.float32)

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        return [[Made(dict(row.data), self._clips(row))] for row in rows]

    def _clips(self, row: InputRow) -> tuple[Clip, ...]:
        return (Clip(row.id, self._samples, RATE),) if len(self._samples) else ()


def main(
    rows: Annotated[int, typer.Option(min=1)] = 100_000,
    clip_secs: Annotated[float, typer.Option(min=0)] = 0.0,
    launcher: Launcher = LauncherKind.local,
    workers: Workers = 1,
    rows_per_shard: RowsPerShard = 1000,
    batch_rows: BatchRows = 32,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chats = write_chats(Path(folder) / "chats.jsonl", [f"say number {number}" for number in range(rows)])
        options = SynthesisOptions(
            launcher=launcher, workers=workers, rows_per_shard=rows_per_shard, batch_rows=batch_rows
        )
        start, cpu = time.perf_counter(), _cpu_secs()
        opened = open_chats([chats])
        opened.check_ids()
        read_secs, read_cpu = time.perf_counter() - start, _cpu_secs() - cpu
        summary = synthesize(Nothing(clip_secs), opened, Path(folder) / "out", options)
    work_cpu = _cpu_secs() - cpu - 2 * read_cpu  # `synthesize` checks the ids again
    print(f"opened and ids checked: {rows / read_secs:,.0f} rows/s, {rows / read_cpu:,.0f} a CPU second")
    print(f"{workers} workers ({launcher.value}), their start included: {summary.rows_per_sec:,.0f} rows/s")
    if launcher is LauncherKind.local:  # actors are no children of this process
        print(f"worked on: {rows / work_cpu:,.0f} rows a CPU second of all processes")
    print(f"peak memory of the main process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def _cpu_secs() -> float:
    """CPU time of this process and of those that have ended under it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    typer.run(main)
