"""Rows answered by several processes on one machine, each with a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from vtblender_nemo.common.errors import ConfigError, VTBlenderError
from vtblender_nemo.evaluation.answer_inputs import read_inputs
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.manifest import (
    ManifestRow,
    RowAnswer,
    Written,
    answer_rows,
    file_id,
    journal_of,
    journals_of,
    remove_journals,
    write_answers,
)
from vtblender_nemo.evaluation.runner import Decoding


class WorkerError(VTBlenderError):
    """A process ended before its rows were answered; what it had answered is kept."""


@dataclass(frozen=True)
class AnswerJob:
    """What is answered, and how.

    Attributes:
        model: a `.nemo` file.
        input: see `read_inputs`.
        output: see `answer_manifest`.
        prompt: what is asked about audio.
        decoding: batch sizes and limits.
        device: `auto` and `cuda` deal the workers to all GPUs.
        part_secs: see `answer_manifest`.
        subtitle_dir: see `answer_manifest`.
        workers: processes.
    """

    model: Path
    input: Path
    output: Path
    prompt: str
    decoding: Decoding
    device: str = "auto"
    part_secs: float | None = None
    subtitle_dir: Path | None = None
    workers: int = 1


def answer_inputs(job: AnswerJob, rows: Sequence[ManifestRow]) -> Written:
    """Answers rows with `job.workers` processes; the output is that of one.

    What is answered before a stop is kept in a journal of each worker, and found again by any number of workers.

    Args:
        job: with the input that `rows` are of.
        rows: to be answered.

    Raises:
        WorkerError: a process was ended, as by a lack of memory.
        VTBlenderError: whatever the user can mend.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(job.workers, mp_context=context) as pool:
        shares = [pool.submit(_answer_share, job, worker) for worker in range(job.workers)]
        try:
            answered = [share.result() for share in shares]
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker was ended, perhaps for want of memory; the same command goes on",
                value=job.workers,
                knob="--workers",
            ) from error
    if sum(map(len, answered)) != len(rows):
        raise WorkerError("the input has changed while it was answered", path=job.input, value=sum(map(len, answered)))
    answers: list[RowAnswer | None] = [None] * len(rows)
    for worker, share in enumerate(answered):
        answers[worker :: job.workers] = share
    whole = [answer for answer in answers if answer is not None]
    written = write_answers(
        rows, whole, job.output, with_segments=job.part_secs is not None, subtitle_dir=job.subtitle_dir
    )
    if not written.failed:
        remove_journals(job.output)
    return written


def _answer_share(job: AnswerJob, worker: int) -> list[RowAnswer]:
    """Every `job.workers`-th row, from row `worker` on."""
    import torch

    from vtblender_nemo.models.loading import load_model, pick_device

    device = pick_device(job.device)
    if device == "cuda":
        device = f"cuda:{worker % torch.cuda.device_count()}"
    elif device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // job.workers))
    rows = read_inputs(job.input, prompt=job.prompt)[worker :: job.workers]
    return answer_rows(
        load_model(job.model, device),
        rows,
        Journal(journal_of(job.output, worker), also=journals_of(job.output)),
        decoding=job.decoding,
        model_id=file_id(job.model),
        part_secs=job.part_secs,
        progress=worker == 0,
        title=f"worker 1 of {job.workers}",
    )


def check_workers(workers: int, rows: int) -> None:
    """
    Raises:
        ConfigError: more workers than rows.
    """
    if workers > rows:
        raise ConfigError("more workers than rows", value=workers, expected=f"at most {rows}", knob="--workers")
