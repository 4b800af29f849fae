"""Deals shards to workers that may die: each to one at a time, and again to another if it was lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterator, Sequence
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
        self._losses: Counter[int | None] = Counter()

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or any(shard is not None for shard in self._at.values())

    def start(self, count: int) -> None:
        for _ in range(count):
            self._at[self._crew.start()] = None

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
        if news is News.LOST:
            self._lose(worker, shard)
        elif news is News.FREE:
            self._at[worker] = None
            self._free.append(worker)
            self._losses[None] = 0
        if shard is not None:
            rows = 0 if isinstance(news, News) else news
            yield Step(shard, rows, whole=news is News.FREE)

    def _lose(self, worker: Hashable, shard: int | None) -> None:
        del self._at[worker]
        if worker in self._free:
            self._free.remove(worker)
        self._losses[shard] += 1
        _check_losses(self._losses[shard], shard)
        if shard is not None:
            self._waiting.appendleft(shard)
        if self._waiting:
            self.start(1)


def _check_losses(count: int, shard: int | None) -> None:
    if count > _MAX_LOSSES:
        raise WorkersLostError(
            "workers die again and again " + ("before they are ready" if shard is None else f"at shard {shard}"),
            value=f"{count} of them",
            expected="enough memory for a worker: their last words are above",
            knob="--workers, --batch-rows",
        )
