"""Optimiser and schedule: one learning rate per part of the model, AdamW as in the paper, Muon where a budget is tiny."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import AdamW, Optimizer

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.shards import axis_of, own_part, whole
from vtblender_nemo.training.muon import muon_class

Parts = Mapping[str, Sequence[tuple[str, nn.Parameter]]]


class CombinedOptimizer(Optimizer):
    """Several optimisers over disjoint parameters that step as one (Lightning's automatic loop takes one).

    Args:
        optimizers: their parameter groups are shared, so a scheduler of this one drives them all.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


def build_optimizer(parts: Parts, cfg: DictConfig) -> Optimizer:
    """AdamW, or Muon on the layer matrices of some parts and AdamW on the rest.

    Args:
        parts: trainable parameters with their names, by part of the model.
        cfg: `model.optim`: `lr`, `betas`, `weight_decay`, `lr_scale` (part -> factor on `lr`, default 1) and `muon_lr` (part ->
            learning rate of Muon on the 2-D weights of its layers; empty for plain AdamW). A part with null is as one that is
            not named.

    Raises:
        ConfigError: `lr_scale` or `muon_lr` name a part that has no trainable parameters, or torch is too old for Muon.
    """
    lr_scale, muon_lr = (_given(cfg.get(knob)) for knob in ("lr_scale", "muon_lr"))
    for knob, values in (("lr_scale", lr_scale), ("muon_lr", muon_lr)):
        if unknown := values.keys() - set(parts):
            raise ConfigError(
                f"{knob} names parts that are not trained",
                value=sorted(unknown),
                expected=f"some of {', '.join(parts)}",
                knob=f"model.optim.{knob}",
            )
    muon_groups: list[dict[str, Any]] = []
    adamw_groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        matrices = [weight for name, weight in named if part in muon_lr and _is_layer_matrix(name, weight)]
        rest = [weight for name, weight in named if not (part in muon_lr and _is_layer_matrix(name, weight))]
        if matrices:
            muon_groups.append({"params": matrices, "lr": muon_lr[part], "name": f"{part}.muon"})
        if rest:
            adamw_groups.append({"params": rest, "lr": cfg.lr * lr_scale.get(part, 1.0), "name": part})
    # Fused, AdamW is quicker; alone it may not be, as Lightning then refuses to clip gradients under mixed precision.
    fused = bool(muon_groups)
    adamw = AdamW(adamw_groups, lr=cfg.lr, betas=tuple(cfg.betas), weight_decay=cfg.weight_decay, fused=fused)
    if not muon_groups:
        return adamw
    kind = muon_class(muon_groups[0]["params"][0].device)
    if any(axis_of(weight) is not None for named in parts.values() for _, weight in named):
        kind = _of_whole_matrices(kind)
    muon = kind(muon_groups, weight_decay=0.0, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")
    return CombinedOptimizer([muon, adamw])


def _given(by_part: Mapping[str, float | None] | None) -> dict[str, float]:
    return {part: value for part, value in (by_part or {}).items() if value is not None}


def build_scheduler(optimizer: Optimizer, cfg: DictConfig, max_steps: int) -> dict[str, Any]:
    """Linear warm-up, then a cosine down to `min_lr`, in Lightning's format.

    Args:
        optimizer: from `build_optimizer`.
        cfg: `model.optim.sched`: `min_lr`, and `warmup_steps` or, where that is null, `warmup_ratio` (the warm-up's share of
            the steps).
        max_steps: optimiser steps of the whole training.

    Raises:
        ConfigError: an endless training, or a warm-up that outlasts it.
    """
    from nemo.core.optim.lr_scheduler import CosineAnnealing  # takes seconds

    warmup_steps = check_schedule(cfg, max_steps)
    schedule = CosineAnnealing(optimizer, max_steps=max_steps, warmup_steps=warmup_steps, min_lr=cfg.min_lr)
    return {"scheduler": schedule, "interval": "step", "frequency": 1}


def check_schedule(cfg: DictConfig, max_steps: int) -> int:
    """The steps of the warm-up; see `build_scheduler`."""
    warmup_steps = cfg.get("warmup_steps")
    if warmup_steps is None:
        warmup_steps = int(cfg.get("warmup_ratio", 0.0) * max_steps)
    if not 0 <= warmup_steps < max_steps:
        raise ConfigError(
            "the schedule needs more steps than its warm-up",
            value={"max_steps": max_steps, "warmup_steps": warmup_steps},
            expected="0 <= warmup_steps < max_steps",
            knob="trainer.max_steps or model.optim.sched.warmup_steps",
        )
    return int(warmup_steps)


def _of_whole_matrices(muon: type[Optimizer]) -> type[Optimizer]:
    """Muon for processes that hold parts of some matrices: its updates depend on a matrix as a whole."""

    class WholeMatrices(muon):
        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            assert closure is None, "the combined optimiser has called it"
            parted = [
                (p, p.data, p.grad, axis)
                for group in self.param_groups
                for p in group["params"]
                if p.grad is not None and (axis := axis_of(p)) is not None
            ]
            for p, part, gradient, axis in parted:
                p.grad, p.data = None, whole(part, axis)
                p.grad = whole(gradient, axis)
                for name, value in self.state[p].items():
                    self.state[p][name] = whole(value, axis)
            super().step()
            for p, part, gradient, axis in parted:
                part.copy_(own_part(p.data, axis))
                p.grad, p.data = None, part
                p.grad = gradient
                for name, value in self.state[p].items():
                    self.state[p][name] = own_part(value, axis)

    return WholeMatrices


def _is_layer_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and ".layers." in f".{name}" and "pos_bias" not in name
