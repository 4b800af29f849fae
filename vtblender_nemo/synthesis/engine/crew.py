"""Deals shards to workers that may die: each to one at a time, and again to another if it was lost."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from vtblender_nemo.common.errors import VTBlenderError

logger = logging.getLogger(__name__)

_MAX_LOSSES = 3  # workers at one shard, or in one place before they began any: more is no chance


@dataclass(frozen=True)
class Step:
    """How far a shard is: `rows` of it are done; not `whole` before it is on disk."""

    shard: int
    rows: int = 0
    whole: bool = False


class News(Enum):
    """What a worker may tell besides a number of rows."""

    FREE = "free"
    BEGUN = "begun"
    LOST = "lost"


class Crew(ABC):
    """Workers somewhere, each of which makes one shard at a time."""

    @abstractmethod
    def start(self) -> Hashable:
        """Starts a worker, which tells `News.FREE` once its work is loaded."""

    @abstractmethod
    def give(self, worker: Hashable, shard: int) -> None:
        """Gives a free worker a shard: it tells `News.BEGUN`, its rows done after every batch, and at the end `News.FREE`.

        The worker may be dead, which nobody knew; then its next word is `News.LOST`.
        """

    @abstractmethod
    def next(self) -> tuple[Hashable, int | News]:
        """Waits for the next word of any worker; an error of the work is raised here."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers at once, whatever they do."""


class WorkersLostError(VTBlenderError):
    """Workers died again and again at the same rows, or all of them before they had begun any."""


def deal(crew: Crew, todo: Sequence[int], workers: int) -> Generator[Step, None, None]:
    """Has all shards made; ends the crew when done, or when an error of the work is raised.

    A worker that is lost is replaced. One whose replacements die as well before they begin a shard, as they cannot load their
    work, is given up, and the others go on without it.

    Args:
        crew: where workers are started.
        todo: the shards; they are begun in this order.
        workers: most workers at once.

    Raises:
        WorkersLostError: four workers died at the same shard, or all were given up.
    """
    dealer = _Dealer(crew, todo)
    try:
        dealer.start(min(workers, len(todo)))
        while dealer.busy:
            yield from dealer.next()
            dealer.give()
    finally:
        crew.close()


class _Dealer:
    """Who is at which shard."""

    def __init__(self, crew: Crew, todo: Sequence[int]) -> None:
        self._crew = crew
        self._waiting = deque(todo)
        self._at: dict[Hashable, int | None] = {}  # None: the worker is loading, or free
        self._free: deque[Hashable] = deque()
        self._begun: set[Hashable] = set()  # workers that have begun the shard they are at
        self._losses_at: Counter[int] = Counter()
        self._losses_before: dict[
            Hashable, int
        ] = {}  # of a worker's forerunners, in a row, none of which began a shard

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or any(shard is not None for shard in self._at.values())

    def start(self, count: int, losses_before: int = 0) -> None:
        for _ in range(count):
            worker = self._crew.start()
            self._at[worker], self._losses_before[worker] = None, losses_before

    def give(self) -> None:
        """Gives shards to the workers that are free."""
        while self._waiting and self._free:
            worker, shard = self._free.popleft(), self._waiting.popleft()
            self._at[worker] = shard
            self._crew.give(worker, shard)

    def next(self) -> Iterator[Step]:
        """Waits for one word of a worker, and tells what it means for its shard."""
        worker, news = self._crew.next()
        shard = self._at[worker]
        if news is News.BEGUN:
            self._begun.add(worker)
            self._losses_before[worker] = 0
            return
        if news is News.LOST:
            self._lose(worker, shard)
        elif news is News.FREE:
            self._at[worker] = None
            self._begun.discard(worker)
            self._free.append(worker)
        if shard is not None:
            rows = 0 if isinstance(news, News) else news
            yield Step(shard, rows, whole=news is News.FREE)

    def _lose(self, worker: Hashable, shard: int | None) -> None:
        del self._at[worker]
        if worker in self._free:
            self._free.remove(worker)
        losses = self._losses_before.pop(worker)
        if shard is not None:
            self._waiting.appendleft(shard)
        if worker in self._begun:
            assert shard is not None
            self._begun.remove(worker)
            self._losses_at[shard] += 1
            _check_losses(self._losses_at[shard], shard)
        else:
            losses += 1
        self._replace(losses)

    def _replace(self, losses: int) -> None:
        if not self._waiting:
            return
        if losses <= _MAX_LOSSES:
            self.start(1, losses)
        elif self._at:
            logger.warning("%d workers in a row died before they began a shard: one fewer goes on", losses)
        else:
            raise WorkersLostError(
                "workers die again and again before they are ready",
                value=f"{losses} in a row, and no other is left",
                expected="enough memory to load what a worker needs: their last words are above",
                knob="--workers",
            )


def _check_losses(count: int, shard: int) -> None:
    if count > _MAX_LOSSES:
        raise WorkersLostError(
            f"workers die again and again at shard {shard}",
            value=f"{count} of them",
            expected="enough memory for a worker: their last words are above",
            knob="--workers, --batch-rows",
        )
