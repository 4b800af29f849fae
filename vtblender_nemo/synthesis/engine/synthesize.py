"""The one engine of all synthesis: deals an input's rows out in shards, and can go on after it was killed at any moment.

Shards, their batches and every row's randomness follow from the input and the settings alone, so the bytes that are
written do not depend on the number of workers, on the launcher, on the order of work or on how often it was stopped.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.common.job_folder import JOB, alone, is_begun
from vtblender_nemo.common.progress import progress_bar
from vtblender_nemo.synthesis.engine.crew import Step
from vtblender_nemo.synthesis.engine.jobs import Job
from vtblender_nemo.synthesis.engine.launchers import Launcher, launch
from vtblender_nemo.synthesis.engine.writer import (
    AUDIO,
    MANIFEST,
    add_empty_tars,
    join_rejected,
    read_counts,
    remove_damaged,
    shard_pattern,
    sweep,
)
from vtblender_nemo.synthesis.inputs.rows import InputRows
from vtblender_nemo.synthesis.work import Work

logger = logging.getLogger(__name__)

SUMMARY, ENTRY = "summary.json", "input_cfg.yaml"
_INPUT_PATHS = ("audio_dir", "tarred_audio_filepaths")
_BIG_INPUT = 100_000  # rows from which on checking their ids takes seconds


@dataclass(frozen=True)
class SynthesisOptions:
    """How a work is carried out.

    Attributes:
        seed: of all that is random; the work is made with the same.
        rows_per_shard: input rows of one shard, which is what is done again after a kill. Tarred input keeps its tars'.
        batch_rows: rows that a worker is given at once.
        launcher: `local` processes, or the actors of a `ray` cluster.
        workers: processes or actors.
        gpus_per_worker: GPUs that are shown to each worker alone; 0 shows all to all (under Ray: none).
        entry: what the work knows of the entry of `input_cfg` that reads its rows, such as `type`, `prompts` or
            `text_field`; it goes before what the engine knows. Its paths are as this process sees them.
        name: of that entry, as the sources of a blend need names that differ; None takes the output folder's.
    """

    seed: int = 0
    rows_per_shard: int = 1000
    batch_rows: int = 32
    launcher: Launcher | str = Launcher.local
    workers: int = 1
    gpus_per_worker: int = 0
    entry: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def check(self) -> None:
        """
        Raises:
            ConfigError: a number out of range, an unknown launcher, or an empty name.
        """
        for name, least in (("rows_per_shard", 1), ("batch_rows", 1), ("workers", 1), ("gpus_per_worker", 0)):
            if getattr(self, name) < least:
                knob = f"--{name.replace('_', '-')}"
                raise ConfigError("number out of range", value=getattr(self, name), expected=f">= {least}", knob=knob)
        if self.launcher not in [launcher.value for launcher in Launcher]:
            known = ", ".join(launcher.value for launcher in Launcher)
            raise ConfigError("unknown launcher", value=self.launcher, expected=f"one of {known}", knob="--launcher")
        if self.name == "":
            raise ConfigError("source without a name", value=self.name, expected="some letters", knob="--name")


@dataclass(frozen=True)
class Summary:
    """What came of a job, over all its runs.

    Attributes:
        rows: of the input.
        made: new rows.
        refused_by_reason: refusals, the most frequent first.
        shards: folders written.
        clips: audio files made.
        audio_secs: their length.
        entry: of `input_cfg`, with paths relative to the output folder; None if nothing was made.
        rows_per_sec: input rows of the last run over its time, loading included; None if it had none left to do.
    """

    rows: int
    made: int
    refused_by_reason: dict[str, int]
    shards: int
    clips: int
    audio_secs: float
    entry: dict[str, Any] | None
    rows_per_sec: float | None

    @property
    def exit_code(self) -> int:
        """1 if nothing was made of any row, otherwise 0."""
        return 0 if self.made else 1


LastPass = Callable[[Path, Summary], tuple[Summary, Sequence[bytes]]]
"""What is done to the whole output, from the folder and what came of the shards: gives what came of it all, and the lines
that `rejected.jsonl` gets more. It may write files beside a shard's own; a kill may have it done again over these."""


def synthesize(
    work: Work, rows: InputRows, output_dir: Path, options: SynthesisOptions, last_pass: LastPass | None = None
) -> Summary:
    """Does a work on all rows of an input, or what an earlier run has left of it.

    Args:
        work: what is done to the rows.
        rows: the input.
        output_dir: gets `shard_000000/...`, `job.json`, and at the end `rejected.jsonl`, `summary.json` and
            `input_cfg.yaml`.
        options: how it is carried out.
        last_pass: called when all shards are whole, while no other process can work in the folder, and before anything is
            published; not if nothing was made.

    Raises:
        ConfigError: options out of range; the folder holds another job; another process is at work in it.
        DataError: two rows of one id.
        Exception: whatever the work raises but DataError; shards that are whole stay, and the next run goes on there.
    """
    options.check()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with alone(output_dir):
        shards = _shards(rows, options.rows_per_shard)
        _claim(output_dir, work, rows, options)
        remove_damaged(output_dir)
        sweep(output_dir)
        job = Job(work, rows, shards, output_dir, options.seed, options.batch_rows)
        rows_per_sec = _run(job, options)
        sweep(output_dir)
        summary = _summary(job, options, rows_per_sec)
        more_rejected: Sequence[bytes] = ()
        if last_pass is not None and summary.made:
            summary, more_rejected = last_pass(output_dir, summary)
        _publish(output_dir, summary, more_rejected)
        return summary


def _shards(rows: InputRows, rows_per_shard: int) -> tuple[range, ...]:
    sizes = rows.shard_sizes
    if sizes is None:
        starts = range(0, len(rows), rows_per_shard)
        return tuple(range(start, min(start + rows_per_shard, len(rows))) for start in starts)
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))


def _claim(output_dir: Path, work: Work, rows: InputRows, options: SynthesisOptions) -> None:
    """Writes `job.json`, or sees that the one beside other files is of this job; a new job's ids are checked."""
    settings = {
        "work": work.settings(),
        "seed": options.seed,
        "rows_per_shard": options.rows_per_shard if rows.shard_sizes is None else None,
        "batch_rows": options.batch_rows,
        "input": {"rows": len(rows), "digest": rows.digest},
    }
    # a job that failed before its first shard is no reason to keep to its settings
    if any(path.name != JOB and not path.name.startswith(".") for path in output_dir.iterdir()):
        if is_begun(output_dir, settings):
            return
        raise ConfigError(
            "folder holds files but no job", path=output_dir, expected=f"{JOB}, or an empty folder", knob="--output-dir"
        )
    rows.check_ids(_counted(len(rows)))
    write_json(settings, output_dir / JOB)


def _counted(count: int) -> Iterator[int]:
    """0, 1, ... with a bar where it takes long."""
    if count < _BIG_INPUT:
        yield from range(count)
        return
    with progress_bar(count, label="checking ids") as bar:
        for index in range(count):
            yield index
            bar.update()


def _run(job: Job, options: SynthesisOptions) -> float | None:
    """Makes the shards that are not there; gives this run's rows per second."""
    todo = [number for number in range(len(job.shards)) if read_counts(job.output_dir, number) is None]
    if not todo:
        return None
    left = sum(len(job.shards[number]) for number in todo)
    start = time.monotonic()
    steps = launch(job, todo, Launcher(options.launcher), options.workers, options.gpus_per_worker)
    with progress_bar(len(job.rows), done=len(job.rows) - left) as bar, closing(steps):
        _show(steps, job.shards, bar)
    return round(left / max(time.monotonic() - start, 1e-9), 2)


def _show(steps: Iterator[Step], shards: Sequence[range], bar: Any) -> None:
    at: Counter[int] = Counter()
    for step in steps:
        rows = len(shards[step.shard]) if step.whole else step.rows
        bar.update(rows - at[step.shard])  # fewer than before if its worker was lost
        at[step.shard] = rows


def _summary(job: Job, options: SynthesisOptions, rows_per_sec: float | None) -> Summary:
    counts = [read_counts(job.output_dir, number) for number in range(len(job.shards))]
    whole = [count for count in counts if count is not None]
    assert len(whole) == len(job.shards)
    refused: Counter[str] = Counter()
    for count in whole:
        refused.update(count["refused"])
    made, clips = sum(count["made"] for count in whole), sum(count["clips"] for count in whole)
    if clips:
        add_empty_tars(job.output_dir, len(whole))
    return Summary(
        rows=len(job.rows),
        made=made,
        refused_by_reason=dict(sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
        shards=len(whole),
        clips=clips,
        audio_secs=round(sum(count["audio_secs"] for count in whole), 3),
        entry=_entry(job, options, with_clips=clips > 0) if made else None,
        rows_per_sec=rows_per_sec,
    )


def _publish(output_dir: Path, summary: Summary, more_rejected: Sequence[bytes]) -> None:
    join_rejected(output_dir, summary.shards, more_rejected)
    if summary.entry is not None:
        write_text(yaml.safe_dump([summary.entry], sort_keys=False, allow_unicode=True), output_dir / ENTRY)
    write_json(asdict(summary), output_dir / SUMMARY)


def _entry(job: Job, options: SynthesisOptions, *, with_clips: bool) -> dict[str, Any]:
    """How the new rows are read: with the clips made of them, with their input's audio, or as text."""
    manifests = shard_pattern(len(job.shards), MANIFEST)
    if with_clips:
        tars = shard_pattern(len(job.shards), AUDIO)
        entry = {"type": "multimodal_conversation", "manifest_filepath": manifests, "tarred_audio_filepaths": tars}
    else:
        read_again = job.rows.entry(manifests) or {"type": "text_chat", "manifest_filepath": manifests}
        entry = _seen_from(job.output_dir, read_again)
    name = options.name or job.output_dir.resolve().name
    return {"name": name, **entry, **_seen_from(job.output_dir, options.entry)}


def _seen_from(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose paths of the input start from the output folder."""
    seen = dict(entry)
    for key in _INPUT_PATHS:
        if isinstance(seen.get(key), list):
            seen[key] = [os.path.relpath(path, folder) for path in seen[key]]
        elif key in seen:
            seen[key] = os.path.relpath(seen[key], folder)
    return seen
