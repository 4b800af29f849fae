"""What is minimised at every target of a micro-batch: cross-entropy, and for twins the divergence from a teacher.

Shapes: B conversations, N target positions of all of them, M of those with cross-entropy, K of those of twins, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.modules.losses import Head, target_kl, target_nll


@dataclass(frozen=True)
class Imitation:
    """How conversations with a twin are learned; all others have plain cross-entropy."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy on their answers; 0 does not compute it."""
    kl_weight: float = 0.0
    """Weight of the divergence from what the frozen LLM, reading the twin, makes of the same tokens; 0 asks no teacher."""
    temperature: float = 2.0
    """Divides the logits of both before they are compared (2 in Ultravox); the divergence is multiplied by its square."""
    top_k: int | None = None
    """Compares the teacher's likeliest tokens alone, so many; null compares the whole vocabulary."""

    @property
    def needs_twins(self) -> bool:
        """Whether twins change anything."""
        return self.kl_weight > 0 or self.ce_weight != 1

    def check(self, *, train_llm: bool, place: str = "model.imitation") -> None:
        """
        Args:
            train_llm: whether the LLM's own weights are trained.
            place: the key that holds the settings, for errors.

        Raises:
            ConfigError: numbers out of range, nothing to be learned, or no frozen LLM that could be the teacher.
        """
        for name in ("ce_weight", "kl_weight"):
            _check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more", place)
        _check_range("temperature", self.temperature, self.temperature > 0, "a positive number", place)
        _check_range("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more, or null", place)
        if self.ce_weight == 0 and self.kl_weight == 0:
            raise ConfigError(
                "imitation without any loss",
                value="ce_weight and kl_weight 0",
                expected="one of them more than 0",
                knob=f"{place}.ce_weight, {place}.kl_weight",
            )
        if self.kl_weight > 0 and train_llm:
            raise ConfigError(
                "the teacher is the frozen LLM, which a trained one is not any more",
                value=f"kl_weight {self.kl_weight} with train_llm true",
                expected="a frozen LLM, with LoRA or without, or answers alone",
                knob=f"model.train_llm=false, or {place}.kl_weight=0",
            )


def _check_range(name: str, value: float | None, is_right: bool, expected: str, place: str) -> None:
    if not is_right or (value is not None and not math.isfinite(value)):
        raise ConfigError("value out of range", value=value, expected=expected, knob=f"{place}.{name}")


@dataclass
class TargetLoss:
    """Loss of a micro-batch, before any normalisation.

    Attributes:
        values: (N,) float32, what is minimised at each target: its negative log-likelihood; for conversations with a twin the
            weighted sum of that and of the divergence.
        conversation: (N,) number of the conversation that the target belongs to.
        nll: (M,) float32, negative log-likelihoods; of all targets, unless those of twins have no cross-entropy.
        kl: (K,) float32, nats, divergences at the targets of conversations with a twin; None without a teacher.
    """

    values: Tensor
    conversation: Tensor
    nll: Tensor
    kl: Tensor | None = None

    @property
    def sum(self) -> Tensor:
        """Scalar; 0 with a gradient path where the micro-batch has no targets."""
        return self.values.sum()

    @property
    def targets(self) -> int:
        return self.values.numel()


@dataclass(frozen=True)
class Targets:
    """The places of a micro-batch that are learned.

    Attributes:
        hidden: (N, H) the LLM's last hidden states at the positions that predict a target.
        ids: (N,) the targets.
        conversation: (N,) numbers of their conversations, ascending.
    """

    hidden: Tensor
    ids: Tensor
    conversation: Tensor

    def nll(self, head: Head) -> TargetLoss:
        """Plain cross-entropy."""
        nll = target_nll(self.hidden, self.ids, head)
        return TargetLoss(nll, self.conversation, nll)


def imitation_loss(
    student: Targets, teacher: Targets | None, twin_rows: Tensor, head: Head, settings: Imitation
) -> TargetLoss:
    """Cross-entropy and divergence, each where it has a weight.

    Args:
        student: targets of B conversations.
        teacher: those of the twins, which are the student's own, one by one; without gradient. None asks no teacher.
        twin_rows: ascending numbers of the conversations that have one.
        head: of both.
        settings: the weights.
    """
    of_twin = torch.isin(student.conversation, twin_rows)
    with_nll = (of_twin.logical_not() | (settings.ce_weight > 0)).nonzero()[:, 0]
    weights = torch.where(of_twin, settings.ce_weight, 1.0)[with_nll]
    nll = target_nll(student.hidden[with_nll], student.ids[with_nll], head)
    values = nll.new_zeros(len(student.ids)).index_add(0, with_nll, weights * nll)
    if teacher is None:
        return TargetLoss(values, student.conversation, nll)
    twins = of_twin.nonzero()[:, 0]
    assert len(twins) == len(teacher.ids), "answers are tokenised alone, and compared when a row is read"
    kl = target_kl(student.hidden[twins], teacher.hidden, head, temperature=settings.temperature, top_k=settings.top_k)
    return TargetLoss(values.index_add(0, twins, settings.kl_weight * kl), student.conversation, nll, kl)
