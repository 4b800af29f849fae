"""A search for the largest micro-batch of a bucket by a model's `oomptimizer_schema`, read as NeMo's script of that name does.

The script itself needs CUDA, and NeMo's package leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nemo.core.neural_types import AudioSignal, LengthsType

Lengths = tuple[int, int]  # of what a schema calls input and output


def random_batch(schema: dict[str, Any], size: int, lengths: Lengths) -> Any:
    """A micro-batch of `size` rows, all as long as `lengths` says: noise for signals, any id for labels."""
    length_of = dict(zip(("input", "output"), lengths, strict=True))
    made = {}
    for part in schema["inputs"]:
        length, kind = length_of[part["seq_length"]], part["type"].elements_type
        if isinstance(kind, LengthsType):
            made[part["name"]] = torch.full((size,), length)
        elif isinstance(kind, AudioSignal):
            made[part["name"]] = torch.randn(size, length)
        else:
            made[part["name"]] = torch.randint(0, part["vocab_size"], (size, length))
    return schema["cls"](**made)


def search(model: Any, buckets: Sequence[Lengths], does_not_fit: Callable[[Any], bool]) -> list[int]:
    """The largest size for each bucket with which a whole training step fits; at least 1 has to."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def fits(size: int, lengths: Lengths) -> bool:
        batch = random_batch(model.oomptimizer_schema, size, lengths)
        if does_not_fit(batch):
            return False
        model.training_step(batch, 0)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return True

    return [_largest(lambda size, lengths=lengths: fits(size, lengths)) for lengths in buckets]


def _largest(fits: Callable[[int], bool]) -> int:
    good, bad = 1, 2
    assert fits(good)
    while fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
