"""The endless training loader: plans in this process, decodes in workers, and knows its state after every batch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.data.blend import Example
from vtblender_nemo.data.buckets import Planner
from vtblender_nemo.data.collate import Collator
from vtblender_nemo.data.skips import Skip, SkipLog, reason_of

# Lightning's fetcher reads one batch ahead of a loader without a length, which would put every saved state one batch
# late.
ENDLESS = 10**9
# A source is given up after so many rows in a row that cannot be decoded.
MAX_UNDECODED = 200
# Workers are looked after so often.
POLL_SECS = 5.0
# The share of a source's rows that cannot be used is judged from so many rows on.
MIN_JUDGED = 100

Plan = list[tuple[Conversation, PromptIds]]
Decoded = tuple[Batch | None, dict[int, DataError]]


@dataclass(frozen=True)
class _InFlight:
    """A planned micro-batch that workers may hold: its rows, rows left out before it, and the state after it."""

    rows: list[Example]
    skips: list[Skip]
    state: dict[str, Any]


class _Plans(Sampler[Plan]):
    """Plans micro-batches as the DataLoader asks for them, which is ahead of their use."""

    def __init__(self, planner: Planner, in_flight: deque[_InFlight]) -> None:
        self._planner, self._in_flight = planner, in_flight

    def __iter__(self) -> Iterator[Plan]:
        while True:
            rows = self._planner.next_batch()
            self._in_flight.append(_InFlight(rows, self._planner.take_skips(), self._planner.state_dict()))
            yield [(row.conversation, row.prompt) for row in rows]


class _Decode(Dataset[Decoded]):
    """What runs in a worker: a plan becomes tensors."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __getitem__(self, plan: Plan) -> Decoded:
        return self._collator([conversation for conversation, _ in plan], [prompt for _, prompt in plan])


def _as_it_is(decoded: Decoded) -> Decoded:
    return decoded


class TrainLoader:
    """Micro-batches without end.

    Args:
        planner: what comes next.
        collator: conversations to tensors.
        skip_log: where rows left out are counted.
        num_workers: processes that decode, each up to two micro-batches ahead of their use; 0 decodes here, when one is
            asked for. What comes out does not depend on it.
        worker_timeout_secs: how long these processes may take for one; 0 is as long as they like.
        stop_at_bad_row: raise at the first audio that cannot be decoded.
        max_bad_share: of a source's rows that cannot be used; None bears any.
        weights_count: what the planner's weights are shares of: `rows` or `batches`.

    Attributes:
        rows_seen: rows handed out, by source.
    """

    def __init__(
        self,
        planner: Planner,
        collator: Collator,
        skip_log: SkipLog,
        *,
        num_workers: int = 0,
        worker_timeout_secs: float = 0.0,
        stop_at_bad_row: bool = False,
        max_bad_share: float | None = None,
        weights_count: Literal["rows", "batches"] = "rows",
    ) -> None:
        self._planner, self._collator, self.skip_log = planner, collator, skip_log
        self._num_workers, self._stop_at_bad_row, self._weights_count = num_workers, stop_at_bad_row, weights_count
        self._worker_timeout_secs, self._max_bad_share = worker_timeout_secs, max_bad_share
        self._planned = planner.state_dict()
        self.rows_seen: Counter[str] = Counter()
        self._batch_parts: dict[str, float] = {}
        self._undecoded: Counter[str] = Counter()

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        """Goes on after the last batch handed out, whatever an earlier iteration had read ahead."""
        self._planner.load_state_dict(self._planned)
        in_flight: deque[_InFlight] = deque()
        loader = DataLoader(
            _Decode(self._collator),
            sampler=_Plans(self._planner, in_flight),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            timeout=self._poll_secs,
            generator=torch.Generator(),  # or it would draw from the generator that dropout draws from
        )
        for batch, errors in self._from_workers(loader, in_flight):
            self._hand_out(in_flight.popleft(), batch, errors)
            if batch is not None:
                yield batch

    def _from_workers(self, loader: DataLoader[Decoded], in_flight: deque[_InFlight]) -> Iterator[Decoded]:
        """What the loader gives; of workers that are stuck or gone it is told what they were at."""
        batches, waited = iter(loader), 0.0
        while True:
            try:
                decoded = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith("DataLoader "):  # those of PyTorch's own loader alone
                    raise
                waited += self._poll_secs
                is_late = 0 < self._worker_timeout_secs <= waited
                if "timed out" in str(error) and not is_late:
                    continue
                raise self._stuck(in_flight[0].rows[0], error) from error
            waited = 0.0
            yield decoded

    @property
    def _poll_secs(self) -> float:
        """How often workers are looked after; a signal tells of one that ends, unless somebody else handles it."""
        if not self._num_workers:
            return 0.0
        return min(POLL_SECS, self._worker_timeout_secs or POLL_SECS)

    def _stuck(self, row: Example, error: RuntimeError) -> DataError:
        at = self._planner.skip(row, "", "")
        return DataError(
            f"the processes that decode are stuck, or one has ended ({error}); the next micro-batch begins with a row of "
            f"{row.conversation.source}",
            path=at.path,
            line=at.line,
            expected=f"a micro-batch within {self._worker_timeout_secs:g} s",
            knob="data.train_ds.worker_timeout_secs, data.train_ds.num_workers",
        )

    def state_dict_after_last_batch(self) -> dict[str, Any]:
        """Where the last batch handed out left off.

        Not named `state_dict`, as Lightning would then store rank 0's state in every checkpoint and load it on all
        ranks.
        """
        return {
            "planner": self._planned,
            "rows_seen": dict(self.rows_seen),
            "batch_parts": dict(self._batch_parts),
            "undecoded": dict(self._undecoded),
            "skips": self.skip_log.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state at the next iteration; see the planners for what it raises."""
        self._planner.load_state_dict(state["planner"])
        self._planned = state["planner"]
        self.rows_seen, self._batch_parts = Counter(state["rows_seen"]), dict(state["batch_parts"])
        self._undecoded = Counter(state["undecoded"])
        self.skip_log.load_state_dict(state["skips"])

    def shares(self) -> dict[str, dict[str, float]]:
        """What every source was to give and gave.

        Returns:
            By source: `weight` (wanted share: of rows, or of micro-batches in a round robin), `seen` (what it came to, of
            the same), `rows_seen`, `share` (of rows) and `batch_share` (the mean part of a micro-batch); shares between
            0 and 1.
        """
        return {name: self._share(name, weight) for name, weight in self._planner.weights().items()}

    def _share(self, name: str, weight: float) -> dict[str, float]:
        rows, batches = sum(self.rows_seen.values()), sum(self._batch_parts.values())
        share = self.rows_seen[name] / rows if rows else 0.0
        batch_share = self._batch_parts.get(name, 0.0) / batches if batches else 0.0
        return {
            "weight": weight,
            "seen": share if self._weights_count == "rows" else batch_share,
            "rows_seen": self.rows_seen[name],
            "share": share,
            "batch_share": batch_share,
        }

    def _hand_out(self, planned: _InFlight, batch: Batch | None, errors: dict[int, DataError]) -> None:
        self.skip_log.add(planned.skips)
        for name in {skip.source for skip in planned.skips}:
            self._judge(name)
        for number, row in enumerate(planned.rows):
            name = row.conversation.source
            if number in errors:
                self._count_undecoded(row, errors[number])
                continue
            self._undecoded.pop(name, None)
            self.rows_seen[name] += 1
            part = 1 / (len(planned.rows) - len(errors))
            self._batch_parts[name] = self._batch_parts.get(name, 0.0) + part
        self._planned = planned.state

    def _count_undecoded(self, row: Example, error: DataError) -> None:
        if self._stop_at_bad_row:
            raise error
        name = row.conversation.source
        self.skip_log.add([self._planner.skip(row, "on_bad_row", reason_of(error))])
        self._judge(name)
        self._undecoded[name] += 1
        if self._undecoded[name] >= MAX_UNDECODED:
            raise AudioError(
                f"source {name} gave nothing but audio that cannot be decoded",
                value=f"{self._undecoded[name]} in a row; the last: {error}",
                expected="audio files that exist and decode",
                knob="data.train_ds.input_cfg",
            ) from error

    def _judge(self, name: str) -> None:
        bad = self.skip_log.counts[name, "on_bad_row"]
        rows = bad + self.rows_seen[name]
        if self._max_bad_share is None or rows < MIN_JUDGED or bad <= self._max_bad_share * rows:
            return
        raise DataError(
            f"too many rows of source {name} cannot be used; {self.skip_log.path or 'the log'} tells why",
            value=f"{bad} of {rows}",
            expected=f"a share of at most {self._max_bad_share:g}",
            knob="data.train_ds.max_bad_share",
        )
