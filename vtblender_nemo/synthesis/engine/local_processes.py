"""Workers as processes of this machine, started afresh (`spawn`), so that they share no state and no GPU context."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

from vtblender_nemo.synthesis.devices import check_gpus
from vtblender_nemo.synthesis.engine.crew import Crew, News
from vtblender_nemo.synthesis.engine.jobs import ShardedJob

logger = logging.getLogger(__name__)

_GPUS = "CUDA_VISIBLE_DEVICES"


class WorkerError(RuntimeError):
    """What a worker's error looked like where it was raised."""


class ProcessCrew(Crew):
    """Processes of this machine.

    Args:
        job: what they do.
        workers: most at once.
        gpus_per_worker: so many of this machine's GPUs are shown to each, no GPU to two; 0 shows all to all.

    Raises:
        ConfigError: the machine shows fewer GPUs than that.
    """

    def __init__(self, job: ShardedJob, workers: int, gpus_per_worker: int = 0) -> None:
        check_gpus(workers, gpus_per_worker)
        self._job, self._gpus = job, gpus_per_worker
        self._processes: dict[Connection, Any] = {}
        self._slots: dict[Connection, int] = {}

    def start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        slot = next(slot for slot in range(len(self._slots) + 1) if slot not in self._slots.values())
        process = context.Process(target=_serve, args=(theirs, self._job, self._devices(slot)))
        process.start()
        theirs.close()  # or its end would not be seen
        self._processes[ours], self._slots[ours] = process, slot
        return ours

    def give(self, worker: Any, shard: int) -> None:
        try:
            worker.send(shard)
        except OSError:
            return  # it is dead, which `next` finds

    def next(self) -> tuple[Connection, int | News]:
        link = wait(list(self._processes))[0]
        assert isinstance(link, Connection)
        try:
            said = link.recv()
        except (EOFError, OSError):
            process = self._processes[link]
            self._end(link)
            logger.warning(
                "worker %s died (exit code %s); if it was at a shard, that is made again", process.pid, process.exitcode
            )
            return link, News.LOST
        if isinstance(said, _Failure):
            said.throw()
        return link, said

    def close(self) -> None:
        for link in list(self._processes):
            self._end(link)

    def _end(self, link: Connection) -> None:
        process = self._processes.pop(link)
        del self._slots[link]
        process.kill()  # the shards that are whole stay, and nothing else is worth an orderly end
        process.join()
        link.close()

    def _devices(self, slot: int) -> str | None:
        if not self._gpus:
            return None
        wanted = range(slot * self._gpus, (slot + 1) * self._gpus)
        shown = os.environ.get(_GPUS)
        names = None if shown is None else shown.split(",")
        return ",".join(str(number) if names is None else names[number] for number in wanted)


class _Failure:
    """An error on its way to the main process."""

    def __init__(self, error: BaseException) -> None:
        self._trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        try:
            self._error = pickle.dumps(error)
            pickle.loads(self._error)
        except Exception:  # errors of libraries whose constructors pickle cannot call
            self._error = pickle.dumps(WorkerError(self._trace))

    def throw(self) -> None:
        raise pickle.loads(self._error) from WorkerError(f"\n{self._trace}")


def _serve(link: Connection, job: ShardedJob, devices: str | None) -> None:
    """The life of a worker process; it ends when the main process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends its workers
    if devices is not None:
        os.environ[_GPUS] = devices
    try:
        maker = job.open()
        while True:
            link.send(News.FREE)
            shard = link.recv()
            link.send(News.BEGUN)
            for rows in maker.make(shard):
                link.send(rows)
    except Exception as error:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.is_alive():  # otherwise the error is that nobody is there to be told
            link.send(_Failure(error))
