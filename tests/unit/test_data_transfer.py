"""Batches on their way to the step: decoded ahead, pinned, copied."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.data_modules import module, take, train_ds, write_corpus
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data import train_loader
from vtblender_nemo.data.buckets import BucketPlanner
from vtblender_nemo.data.collate import Collator


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 3), (2, 5)])
def test_workers_decode_ahead_while_a_step_computes(corpus, monkeypatch, workers, ahead):
    decoded, plans = multiprocessing.Semaphore(0), []
    collate, plan = Collator.__call__, BucketPlanner.next_batch

    def counted(*args: Any) -> Any:
        result = collate(*args)
        decoded.release()
        return result

    monkeypatch.setattr(Collator, "__call__", counted)
    monkeypatch.setattr(BucketPlanner, "next_batch", lambda planner: plans.append(1) or plan(planner))
    batches = iter(module(train_ds(corpus, num_workers=workers)).train_dataloader())
    next(batches)  # what a step computes on; no more is asked for
    assert all(decoded.acquire(timeout=60) for _ in range(ahead))
    assert len(plans) == ahead
    assert not decoded.acquire(block=False)


def test_batches_are_pinned_where_there_is_a_gpu_to_copy_them(corpus, monkeypatch):
    def loaders_pin() -> bool:
        monkeypatch.setattr(
            train_loader, "DataLoader", lambda *_, pin_memory, **__: made.append(pin_memory) or iter(())
        )
        made: list[bool] = []
        list(module(train_ds(corpus)).train_dataloader())
        return made[0]

    assert loaders_pin() is torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loaders_pin()


def test_pytorch_pins_every_tensor_of_a_batch(corpus, monkeypatch):
    """PyTorch's own walk through what a worker sends; on a CPU its last call would fail."""
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch, error = take(module(train_ds(corpus)), 1)[0], DataError("broken")
    pinned, errors = pin_memory((batch, {3: error}))
    assert errors == {3: error}
    assert pinned.ids == batch.ids
    for name, value in vars(batch).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(getattr(pinned, name), value + 1)


@pytest.mark.parametrize("is_pinned", [True, False])
def test_copies_wait_unless_they_are_from_pinned_memory(corpus, monkeypatch, is_pinned):
    batch, waits = take(module(train_ds(corpus)), 1)[0], []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: is_pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, _, non_blocking: waits.append(not non_blocking) or tensor)
    batch.to("cuda")
    assert waits == [not is_pinned] * 5


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu(corpus):
    batch = take(module(train_ds(corpus, num_workers=1)), 1)[0]
    assert batch.audios.is_pinned()
    assert torch.equal(batch.to("cuda").audios.cpu(), batch.audios)
