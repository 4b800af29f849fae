"""Jobs made of shards, of which synthesis is one, and what one process does of it: rows of a shard in, a whole shard on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.synthesis.engine.writer import ShardWriter
from vtblender_nemo.synthesis.inputs.rows import InputRows
from vtblender_nemo.synthesis.work import InputRow, Outcome, Refused, Work


class Maker(Protocol):
    """Makes one shard after another in one process."""

    def make(self, number: int) -> Iterator[int]:
        """Makes a shard; gives the number of its rows that are done, as often as it likes."""


class ShardedJob(Protocol):
    """Whatever is made shard by shard; it is pickled to every process."""

    def open(self) -> Maker:
        """Loads what the shards need; called once in every process."""


@dataclass(frozen=True)
class Job:
    """What every process has to know; it is pickled to each.

    Attributes:
        work: what is done to the rows.
        rows: the input.
        shards: the indices of the rows of every shard.
        output_dir: where shards go; seen by every process under this path.
        seed: for provenance.
        batch_rows: rows that the worker is given at once.
    """

    work: Work
    rows: InputRows
    shards: tuple[range, ...]
    output_dir: Path
    seed: int
    batch_rows: int

    def open(self) -> ShardMaker:
        """Loads what the work needs."""
        return ShardMaker(self)


class ShardMaker:
    """Makes one shard after another in one process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker = job.work.open()

    def make(self, number: int) -> Iterator[int]:
        """Makes a shard; gives the number of its rows that are done after every batch."""
        span = self._job.shards[number]
        with ShardWriter(self._job.output_dir, number) as shard:
            for start in range(0, len(span), self._job.batch_rows):
                batch = span[start : start + self._job.batch_rows]
                for id, place, outcomes in self._batch(batch):
                    shard.add(id, place, outcomes)
                yield start + len(batch)
            shard.finish()

    def _batch(self, indices: range) -> Iterator[tuple[str, str, list[Outcome]]]:
        """Id, place and outcomes of every row, in the rows' order."""
        read = [self._read(index) for index in indices]
        rows = [row for row in read if isinstance(row, InputRow)]
        outcomes = iter(self._ask(rows) if rows else [])
        for index, row in zip(indices, read, strict=True):
            if isinstance(row, Refused):
                yield self._job.rows.made_up_id(index), self._job.rows.place(index), [row]
            else:
                yield row.id, row.place, [self._with_provenance(row, outcome) for outcome in next(outcomes)]

    def _read(self, index: int) -> InputRow | Refused:
        try:
            return self._job.rows[index]
        except DataError as error:
            return Refused("bad_row", str(error))

    def _ask(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        """The worker's answer; if a row cannot be used, every row is given alone, so that it costs itself only."""
        try:
            answers = self._worker(rows)
        except DataError as error:
            if len(rows) == 1:
                return [[Refused("bad_row", str(error))]]
            return [answer for row in rows for answer in self._ask([row])]
        if len(answers) != len(rows):
            raise ValueError(f"the work gave {len(answers)} lists of outcomes for {len(rows)} rows")
        return [answer or [Refused("nothing_made")] for answer in answers]

    def _with_provenance(self, source: InputRow, outcome: Outcome) -> Outcome:
        """Every new row says what it was made from, also where its work says less."""
        if isinstance(outcome, Refused):
            return outcome
        known = {"source": source.id, "place": source.place, "seed": self._job.seed}
        return replace(outcome, row={**outcome.row, "provenance": {**known, **outcome.row.get("provenance", {})}})
