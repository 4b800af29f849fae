"""Workers as actors of a Ray cluster: one that runs already (`RAY_ADDRESS`), or one on this machine.

The output folder, the input, the folder that the command was started in and the package have to be seen by every node
under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.synthesis.devices import check_gpus
from vtblender_nemo.synthesis.engine.crew import Crew, News
from vtblender_nemo.synthesis.engine.jobs import Maker, ShardedJob

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 100_000_000  # holds the job's description alone: rows are read and written by the actors


class _Worker:
    """What runs in an actor."""

    def __init__(self, job: ShardedJob, folder: str) -> None:
        self._job, self._folder = job, folder
        self._maker: Maker | None = None

    def load(self) -> None:
        os.chdir(self._folder)  # relative paths mean the same as in the command
        self._maker = self._job.open()

    def make(self, shard: int) -> Iterator[int | News]:
        assert self._maker is not None
        yield News.BEGUN
        yield from self._maker.make(shard)


class RayCrew(Crew):
    """Actors with one CPU each.

    Args:
        job: what they do.
        workers: the CPUs of a cluster that is started here.
        gpus_per_worker: GPUs that Ray gives to each actor alone.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster of `RAY_ADDRESS` cannot be reached, or this machine has fewer GPUs than its actors shall have.
    """

    def __init__(self, job: ShardedJob, workers: int, gpus_per_worker: int = 0) -> None:
        self._ray = _import_ray()
        self._started_ray = _connect(self._ray, workers, gpus_per_worker)
        _warn_of_gpus(self._ray, gpus_per_worker)
        self._actor = self._ray.remote(num_cpus=1, num_gpus=gpus_per_worker, max_restarts=0, max_task_retries=0)(
            _Worker
        )
        self._job = self._ray.put(job)
        self._actors: list[Any] = []
        self._pending: dict[Any, Any] = {}  # what Ray was asked -> the actor that answers

    def start(self) -> Any:
        actor = self._actor.remote(self._job, str(Path.cwd()))
        self._actors.append(actor)
        self._pending[actor.load.remote()] = actor
        return actor

    def give(self, worker: Any, shard: int) -> None:
        self._pending[worker.make.options(num_returns="streaming").remote(shard)] = worker

    def next(self) -> tuple[Any, int | News]:
        [asked], _ = self._ray.wait(list(self._pending), num_returns=1, fetch_local=False)
        actor = self._pending[asked]
        try:
            if isinstance(asked, self._ray.ObjectRef):
                self._ray.get(asked)
            else:
                return actor, self._ray.get(next(asked))
        except StopIteration:
            pass
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            del self._pending[asked]
            logger.warning("an actor died (%s); if it was at a shard, that is made again", first_line(error))
            self._actors.remove(actor)
            self._ray.kill(actor)  # one that only could not be reached must not go on beside its successor
            return actor, News.LOST
        del self._pending[asked]
        return actor, News.FREE

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._started_ray:
            self._ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "the launcher ray needs the package ray", expected="pip install 'vtblender_nemo[ray]'", knob="--launcher"
        ) from error
    return ray


def _connect(ray: Any, workers: int, gpus_per_worker: int) -> bool:
    """Whether a cluster was started or joined here, and is to be left again."""
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        check_gpus(workers, gpus_per_worker)
    try:
        if address:
            ray.init(address=address)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray cannot be reached ({error})", value=address, knob="RAY_ADDRESS") from error
    return True


def _warn_of_gpus(ray: Any, wanted: int) -> None:
    """Ray would wait without a word for a node that has them; one may still join, so it is no error."""
    most = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if most < wanted:
        logger.warning("no node of the Ray cluster has %d GPUs (--gpus-per-worker), at most %d: waiting", wanted, most)
