"""Deals shards to workers that may die: each to one at a time, and again to another if it was lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from vtblender_nemo.common.errors import VTBlenderError

_MAX_LOSSES = 3  # workers at one shard, or before their first: more is no chance


@dataclass(frozen=True)
class Step:
    """How far a shard is: `rows` of it are done; not `whole` before it is on disk."""

    shard: int
    rows: int = 0
    whole: bool = False


class News(Enum):
    """What a worker may tell besides a number of rows."""

    FREE = "free"
    LOST = "lost"


class Crew(ABC):
    """Workers somewhere, each of which makes one shard at a time."""

    @abstractmethod
    def start(self) -> Hashable:
        """Starts a worker, which tells `News.FREE` once its work is loaded."""

    @abstractmethod
    def give(self, worker: Hashable, shard: int) -> None:
        """Gives a free worker a shard; it tells its rows done after every batch, and at the end `News.FREE`."""

    @abstractmethod
    def next(self) -> tuple[Hashable, int | News]:
        """Waits for the next word of any worker; an error of the work is raised here."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers at once, whatever they do."""


class WorkersLostError(VTBlenderError):
    """Workers died again and again at the same rows, or before they had loaded their work."""


def deal(crew: Crew, todo: Sequence[int], workers: int) -> Generator[Step, None, None]:
    """Has all shards made; ends the crew when done, or when an error of the work is raised.

    Args:
        crew: where workers are started.
        todo: the shards; they are begun in this order.
        workers: most workers at once.

    Raises:
        WorkersLostError: four workers died at the same shard, or while they loaded their work.
    """
    waiting = deque(todo)
    losses: Counter[int | None] = Counter()
    at: dict[Hashable, int | None] = {}  # the shard of every worker; None: it is loading, or free
    free: deque[Hashable] = deque()
    try:
        for _ in range(min(workers, len(waiting))):
            at[crew.start()] = None
        while waiting or any(shard is not None for shard in at.values()):
            worker, news = crew.next()
            shard = at[worker]
            if news is News.LOST:
                del at[worker]
                if worker in free:
                    free.remove(worker)
                losses[shard] += 1
                _check_losses(losses[shard], shard)
                if shard is not None:
                    waiting.appendleft(shard)
                    yield Step(shard)
                if waiting:
                    at[crew.start()] = None
            elif news is News.FREE:
                at[worker] = None
                free.append(worker)
                losses[None] = 0
                if shard is not None:
                    yield Step(shard, whole=True)
            elif shard is not None:
                yield Step(shard, int(news))
            while waiting and free:
                at[free[0]] = waiting.popleft()
                crew.give(free[0], at[free.popleft()])
    finally:
        crew.close()


def _check_losses(count: int, shard: int | None) -> None:
    if count > _MAX_LOSSES:
        raise WorkersLostError(
            "workers die again and again " + ("before they are ready" if shard is None else f"at shard {shard}"),
            value=f"{count} of them",
            expected="enough memory for a worker: their last words are above",
            knob="--workers, --batch-rows",
        )
