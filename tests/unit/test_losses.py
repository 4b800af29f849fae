"""The loss on target rows against torch's own, whole and in chunks."""

from __future__ import annotations

import math

import pytest
import torch

from vtblender_nemo.modules.losses import Head, target_kl, target_nll


def test_equals_cross_entropy_with_its_gradients_in_chunks() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50)
    targets = torch.randint(0, 50, (23,))
    results = []
    for chunk_rows in (100, 5):
        hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        head.zero_grad()
        nll = target_nll(hidden, targets, Head(head.weight, head.bias), chunk_rows=chunk_rows)
        nll.sum().backward()
        results.append((nll.detach(), hidden.grad, head.weight.grad.clone()))
    hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(1))
    wanted = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(results[0][0], wanted)
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_a_frozen_heads_gradients_are_torchs() -> None:
    """Each row with a weight of its own, through a scaled and soft-capped head; logits of several chunks never meet."""
    torch.manual_seed(0)
    head, targets, weights = Head(torch.randn(50, 8), scale=0.5, softcap=4.0), torch.arange(23), torch.randn(23)
    hidden = torch.randn(23, 8, requires_grad=True)
    (target_nll(hidden, targets, head, chunk_rows=5) * weights).sum().backward()
    found, hidden.grad = hidden.grad, None
    (torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none") * weights).sum().backward()
    torch.testing.assert_close(found, hidden.grad)
    rows: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Head, "__call__", lambda self, some: counting_head(rows, self, some))
        target_nll(hidden, targets, head, chunk_rows=5).sum().backward()
    assert rows == [5, 5, 5, 5, 3]  # once each


def counting_head(rows: list[int], head: Head, some: torch.Tensor) -> torch.Tensor:
    rows.append(len(some))
    return some @ head.weight.t()


def test_without_targets_the_sum_is_zero_and_differentiable() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    loss = target_nll(hidden, torch.zeros(0, dtype=torch.long), Head(torch.ones(5, 8))).sum()
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None


def test_head_scales_then_bends() -> None:
    head = Head(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([1.0, 0.0]), scale=0.5, softcap=3.0)
    logits = head(torch.tensor([[2.0, 1.0]]))
    wanted = 3 * torch.tanh(torch.tensor([[2.5, -0.5]]) / 3)  # (1*2 + 2*1 + 1) / 2 and -1 / 2
    torch.testing.assert_close(logits, wanted)


def test_divergence_by_hand() -> None:
    """Rows are logits here. Teacher (3/4, 1/4) against an even student: 3/4 ln(3/2) + 1/4 ln(1/2) nats."""
    head = Head(torch.eye(2))
    teacher, student = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    assert float(target_kl(student, teacher, head)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(target_kl(teacher, teacher, head)) == pytest.approx(0.0, abs=1e-7)
    halved = 4 * float(target_kl(student, teacher / 2, head))
    assert float(target_kl(student, teacher, head, temperature=2.0)) == pytest.approx(halved)


def test_divergence_over_the_teachers_likeliest() -> None:
    teacher = torch.tensor([[6.0, 0.1, 2.0]]).log()  # the two likeliest: 3/4 and 1/4
    student = torch.tensor([[5.0, 900.0, 5.0]]).log()  # even between them
    found = target_kl(student, teacher, Head(torch.eye(3)), top_k=2)
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_divergence_in_chunks_with_its_gradients() -> None:
    torch.manual_seed(0)
    head, teacher = Head(torch.randn(50, 8)), torch.randn(23, 8, requires_grad=True)
    results = []
    for chunk_rows in (100, 5):
        hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        kl = target_kl(hidden, teacher, head, temperature=1.5, top_k=7, chunk_rows=chunk_rows)
        kl.sum().backward()
        results.append((kl.detach(), hidden.grad))
    assert (results[0][0] > 0).all()
    assert teacher.grad is None
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)
