"""Micro-batches of conversations of like length, planned one after another and bounded before a row is added.

Every bucket holds one open micro-batch. A drawn row goes to the bucket of its length; if the micro-batch there would
break its bounds, it is given out first and the row opens the next. So nothing waits for longer than its bucket takes to
fill, and the state is the blend's and the references of the rows in open micro-batches.

This is no `lhotse.dataset.sampling.CutSampler`: that class skips every batch that is another rank's (reading W times
the rows), counts epochs, and restores a position by reading the data again up to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.blend import Blend, Example
from vtblender_nemo.data.order import key_of, unit
from vtblender_nemo.data.skips import Skip


class Planner(Protocol):
    """What gives micro-batches out, and can be stopped and gone on with."""

    def next_batch(self) -> list[Example]: ...

    def take_skips(self) -> list[Skip]: ...

    def skip(self, example: Example, knob: str, reason: str) -> Skip: ...

    def weights(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class BucketPlanner:
    """Micro-batches from one blend.

    Args:
        blend: the rows; its limits hold the token budget.
        batch_size: most conversations of a micro-batch.
        num_buckets: how many buckets, if their bins are estimated.
        bins: ascending lengths that part the buckets: bucket i holds bins[i - 1] <= length < bins[i].
        bucket_sizes: most conversations of a micro-batch by bucket, one more than bins.
        buffer_size: rows from the blend's beginning that bins are estimated from; they are read again in training.
    """

    def __init__(
        self,
        blend: Blend,
        *,
        batch_size: int | None = None,
        num_buckets: int = 1,
        bins: Sequence[float] | None = None,
        bucket_sizes: Sequence[int] | None = None,
        buffer_size: int = 2000,
    ) -> None:
        self.blend, self._bucket_sizes = blend, bucket_sizes
        self._batch_size, self._num_buckets, self._buffer_size = batch_size, num_buckets, buffer_size
        self._bins = None if bins is None else _check_bins(bins)
        self._open: list[list[Example]] = []

    @property
    def bins(self) -> list[float]:
        """The lengths that part the buckets; estimated at first use."""
        if self._bins is None:
            self._bins = estimate_bins(self.blend, self._num_buckets, self._buffer_size)
        return self._bins

    def next_batch(self) -> list[Example]:
        """The next micro-batch; see `Blend.draw` for what it raises."""
        self._open = self._open or [[] for _ in range(len(self.bins) + 1)]
        while True:
            example = self.blend.draw()
            number = bisect_right(self.bins, example.length)
            batch = self._open[number]
            if batch and not self._fits([*batch, example]):
                self._open[number] = [example]
                return batch
            batch.append(example)
            if len(batch) == self._most_rows(number):
                self._open[number] = []
                return batch

    def take_skips(self) -> list[Skip]:
        """The rows left out since the last call."""
        return self.blend.take_skips()

    def skip(self, example: Example, knob: str, reason: str) -> Skip:
        """The record of a row that is left out after it was drawn."""
        return self.blend.skip(example.source, example.position, knob, reason)

    def weights(self) -> dict[str, float]:
        """Every source's probability for a row."""
        return {s.name: p for s, p in zip(self.blend.sources, self.blend.probabilities, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The blend's state, the bins, and where the rows of open micro-batches stand."""
        waiting = [[[row.source, row.position] for row in batch] for batch in self._open]
        return {"blend": self.blend.state_dict(), "bins": self._bins, "open": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state: waiting rows are read again, nothing else.

        Raises:
            ConfigError: the state is of another blend, or its bins are not those that sizes are given for.
        """
        if self._bucket_sizes is not None and state["bins"] != self.bins:
            raise ConfigError(
                "the data state that is resumed has other bins than bucket_batch_size was found for",
                value=self.bins,
                expected=f"{state['bins']}, as when it was saved; or a new output_dir",
                knob="bucket_bins",
            )
        self.blend.load_state_dict(state["blend"])
        self._bins = None if state["bins"] is None else list(state["bins"])
        self._open = [[self.blend.rebuild(*place) for place in batch] for batch in state["open"]]

    def _most_rows(self, number: int) -> int | None:
        """Of a micro-batch from a bucket; None where only the token budget bounds it."""
        sizes = [self._batch_size, None if self._bucket_sizes is None else self._bucket_sizes[number]]
        return min((size for size in sizes if size is not None), default=None)

    def _fits(self, batch: list[Example]) -> bool:
        limits = self.blend.limits
        padded = max(limits.cost(row.length) for row in batch) * len(batch)
        return limits.batch_tokens is None or padded <= limits.batch_tokens


def estimate_bins(blend: Blend, num_buckets: int, rows: int) -> list[float]:
    """Bins of alike many positions each, from the first rows that a lone process would read: the same on all ranks."""
    if num_buckets == 1:
        return []
    from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

    lone = blend.fork()
    lengths = [lone.draw().length for _ in range(max(rows, num_buckets))]
    bins = estimate_duration_buckets(lengths, num_buckets, constraint=_Plain())
    return sorted({float(edge) for edge in bins})


class _Plain:
    """Lhotse's measure for what is a length already."""

    def measure_length(self, length: int) -> float:
        return length


def _check_bins(bins: Sequence[float]) -> list[float]:
    if list(bins) != sorted(set(bins)):
        raise ConfigError("bins are not ascending", value=list(bins), expected="ascending lengths", knob="bucket_bins")
    return list(bins)


class RoundRobinPlanner:
    """Micro-batches from several planners, each drawn with its weight: the same choice at the same step on all ranks.

    Args:
        planners: by name.
        weights: by the same names.
        seed: of the draws.

    Attributes:
        planners: by name.
    """

    def __init__(self, planners: dict[str, BucketPlanner], weights: dict[str, float], *, seed: int) -> None:
        self.planners = planners
        total = sum(weights[name] for name in planners)
        self._shares = {name: weights[name] / total for name in planners}
        self._seed, self._step = seed, 0

    def next_batch(self) -> list[Example]:
        """The next micro-batch of the planner that is drawn."""
        cumulative = list(accumulate(self._shares.values()))
        point = unit(self._seed, key_of("round robin"), self._step) * cumulative[-1]
        self._step += 1
        return list(self.planners.values())[bisect_right(cumulative, point)].next_batch()

    def take_skips(self) -> list[Skip]:
        """The rows left out since the last call."""
        return [skip for planner in self.planners.values() for skip in planner.take_skips()]

    def skip(self, example: Example, knob: str, reason: str) -> Skip:
        """The record of a row that is left out after it was drawn."""
        return self._owner(example).skip(example, knob, reason)

    def weights(self) -> dict[str, float]:
        """Every source's probability within its planner's micro-batches, times the planner's share of micro-batches."""
        return {
            source: share * probability
            for name, share in self._shares.items()
            for source, probability in self.planners[name].weights().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The step, and every planner's state."""
        return {"step": self._step, "planners": {name: p.state_dict() for name, p in self.planners.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            ConfigError: the state is of other samplers.
        """
        if set(state["planners"]) != set(self.planners):
            raise ConfigError(
                "the data state that is resumed has other samplers",
                value=sorted(self.planners),
                expected=f"{sorted(state['planners'])}; or a new output_dir",
                knob="data.train_ds.samplers",
            )
        self._step = state["step"]
        for name, planner in self.planners.items():
            planner.load_state_dict(state["planners"][name])

    def _owner(self, example: Example) -> BucketPlanner:
        name = example.conversation.source
        return next(planner for planner in self.planners.values() if name in planner.weights())
