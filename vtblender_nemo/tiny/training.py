"""The loop of both trainings of the tiny world: steps, progress with time left, checkpoints to continue from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vtblender_nemo.tiny.optim import schedule

_PROGRESS_SECS = 15.0
_SMOOTHING = 0.97  # of the loss that is shown
_CLIP_NORM = 1.0

_Stateful: TypeAlias = nn.Module | Optimizer | LRScheduler


def train_steps(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    loss_of: Callable[[Any], torch.Tensor],
    *,
    steps: int,
    decay_share: float,
    checkpoint: Path,
    checkpoint_secs: float,
    say: Callable[[str], None],
) -> float:
    """Trains for a fixed number of steps, from the checkpoint if there is one.

    The batches must come in the same order every time: a continued training skips those that it has had. The random
    state of torch is restored with the weights, so a stopped training ends with the weights of an unbroken one.

    Args:
        model: in train mode; its parameters are `optimizer`'s.
        optimizer: at its peak learning rates.
        batches: at least `steps` of them.
        loss_of: the loss of a batch.
        steps: optimiser steps.
        decay_share: share of the steps over which the learning rate falls.
        checkpoint: file to continue from, rewritten as the training goes on.
        checkpoint_secs: seconds between two checkpoints.
        say: takes progress lines.

    Returns:
        The smoothed loss at the end.
    """
    scheduler = schedule(optimizer, steps, decay_share)
    parts: dict[str, _Stateful] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first, shown = _restore(checkpoint, parts)
    if first:
        say(f"continues from step {first} of {steps}")
    started = said = saved = time.monotonic()
    for step, batch in enumerate(batches):
        if step >= steps:
            break
        if step < first:
            continue
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        shown = loss.item() if step == 0 else _SMOOTHING * shown + (1 - _SMOOTHING) * loss.item()
        now = time.monotonic()
        if now - said > _PROGRESS_SECS or step + 1 == steps:
            left = (now - started) / (step + 1 - first) * (steps - step - 1)
            say(f"step {step + 1} of {steps}, loss {shown:.3f}, {minutes(left)} left")
            said = now
        if now - saved > checkpoint_secs:
            _save(checkpoint, parts, step + 1, shown)
            saved = now
    return shown


def minutes(secs: float) -> str:
    """Seconds as m:ss."""
    return f"{int(secs) // 60}:{int(secs) % 60:02d}"


def _save(path: Path, parts: Mapping[str, _Stateful], step: int, shown: float) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    partial = path.with_suffix(".partial")
    torch.save({"parts": states, "step": step, "loss": shown, "random": torch.get_rng_state()}, partial)
    partial.replace(path)


def _restore(path: Path, parts: Mapping[str, _Stateful]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["random"])
    return state["step"], state["loss"]
