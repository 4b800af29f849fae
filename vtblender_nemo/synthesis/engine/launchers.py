"""Who does the shards of a job: this process, N processes of this machine, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from enum import Enum

from vtblender_nemo.synthesis.engine.crew import Step, deal
from vtblender_nemo.synthesis.engine.jobs import ShardedJob


class Launcher(str, Enum):
    """Where workers run."""

    local = "local"
    ray = "ray"


def launch(
    job: ShardedJob, todo: Sequence[int], launcher: Launcher, workers: int, gpus_per_worker: int = 0
) -> Generator[Step, None, None]:
    """Has shards made; what is written does not depend on who makes them, and in what order.

    Args:
        job: what is made.
        todo: numbers of the shards, one or more.
        launcher: `local` with one worker is this process, unless GPUs are chosen for it.
        workers: processes or actors.
        gpus_per_worker: GPUs that are shown to each worker alone; 0 shows all to all (Ray shows none then).

    Raises:
        ConfigError: fewer GPUs than the workers shall have.
        MissingDependencyError: the launcher is `ray`, which is not installed.
        WorkersLostError: workers die again and again.
    """
    if launcher is Launcher.ray:
        from vtblender_nemo.synthesis.engine.ray_cluster import RayCrew

        return deal(RayCrew(job, workers, gpus_per_worker), todo, workers)
    if workers == 1 and not gpus_per_worker:
        return _here(job, todo)
    from vtblender_nemo.synthesis.engine.local_processes import ProcessCrew

    return deal(ProcessCrew(job, workers, gpus_per_worker), todo, workers)


def _here(job: ShardedJob, todo: Sequence[int]) -> Generator[Step, None, None]:
    maker = job.open()
    for shard in todo:
        for rows in maker.make(shard):
            yield Step(shard, rows)
        yield Step(shard, whole=True)
