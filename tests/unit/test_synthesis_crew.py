"""Who makes which shard, with workers that say what the test has them say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import pytest

from vtblender_nemo.synthesis.engine.crew import Crew, News, Step, WorkersLostError, deal

Life = Callable[[int], Iterator[int | News]]


class Played(Crew):
    """Workers 0, 1, ... whose lives are generators: what they say, and at `yield` of `News.FREE` they wait for a shard."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.lives: list[Iterator[int | News]] = []
        self._words: deque[tuple[int, int | News]] = deque()
        self.given: list[tuple[int, int]] = []
        self.closed = False

    def start(self) -> int:
        self.lives.append(self._life(len(self.lives)))
        self._run(len(self.lives) - 1)
        return len(self.lives) - 1

    def give(self, worker: int, shard: int) -> None:
        self.given.append((worker, shard))
        self._run(worker)

    def next(self) -> tuple[int, int | News]:
        return self._words.popleft()

    def close(self) -> None:
        self.closed = True

    def _run(self, worker: int) -> None:
        for word in self.lives[worker]:
            self._words.append((worker, word))
            if word is News.FREE:
                return


def healthy() -> Iterator[int | News]:
    yield News.FREE
    while True:
        yield from (News.BEGUN, 3, News.FREE)


def loads_and_is_lost() -> Iterator[int | News]:
    """Its node is gone while it waits for a shard."""
    yield from (News.FREE, News.LOST)


def dies_loading() -> Iterator[int | News]:
    yield News.LOST


def dies_at_work() -> Iterator[int | News]:
    yield from (News.FREE, News.BEGUN, News.LOST)


def steps(crew: Played, shards: int, workers: int) -> list[Step]:
    try:
        return list(deal(crew, range(shards), workers))
    finally:
        assert crew.closed


def whole(made: list[Step]) -> list[int]:
    return sorted(step.shard for step in made if step.whole)


@pytest.mark.parametrize("lost_node", [loads_and_is_lost, dies_loading])
def test_node_of_many_idle_or_loading_workers_is_lost(lost_node: Callable[[], Iterator[int | News]]) -> None:
    """Each of its eight workers is lost once, which is the fault of no shard."""
    crew = Played(lambda worker: lost_node() if worker < 8 else healthy())
    assert whole(steps(crew, 10, 8)) == list(range(10))
    assert len(crew.lives) == 16


def test_shard_handed_to_one_dead_worker_after_another_has_not_lost_them() -> None:
    """The last shard loses its worker; seven that wait for work are of a node that is gone."""

    def one_shard() -> Iterator[int | News]:
        yield from (News.FREE, News.BEGUN, 3, News.FREE, News.LOST)

    def life(worker: int) -> Iterator[int | News]:
        return dies_at_work() if worker == 0 else one_shard() if worker < 8 else healthy()

    crew = Played(life)
    assert whole(steps(crew, 8, 8)) == list(range(8))
    assert [worker for worker, shard in crew.given if shard == 0] == list(range(9))


def test_shard_that_kills_its_workers_stops_the_job() -> None:
    crew = Played(lambda worker: dies_at_work())
    with pytest.raises(WorkersLostError, match=r"again and again at shard 0; found '4 of them'"):
        steps(crew, 1, 1)
    assert crew.given == [(0, 0), (1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize("life", [dies_loading, loads_and_is_lost])
def test_crew_that_never_begins_stops(life: Callable[[], Iterator[int | News]]) -> None:
    crew = Played(lambda worker: life())
    with pytest.raises(WorkersLostError, match=r"before they are ready; found '4 in a row, and no other is left'"):
        steps(crew, 100, 3)
    assert len(crew.lives) == 12  # three, each replaced three times


def test_worker_whose_place_is_too_small_is_given_up_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    crew = Played(lambda worker: healthy() if worker == 0 else dies_loading())
    assert whole(steps(crew, 50, 2)) == list(range(50))
    assert len(crew.lives) == 5
    assert "4 workers in a row died before they began a shard" in caplog.text


def test_losses_at_work_between_good_shards_are_no_end() -> None:
    """A worker may die at every other shard: each shard is lost once only."""

    def life() -> Iterator[int | News]:
        yield from (News.FREE, News.BEGUN, 3, News.FREE, News.BEGUN, News.LOST)

    made = steps(Played(lambda worker: life()), 20, 1)
    assert whole(made) == list(range(20))
    assert [step for step in made if step.shard == 1] == [Step(1), Step(1, 3), Step(1, 0, whole=True)]
