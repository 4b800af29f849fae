"""The loss on target rows against torch's own, whole and in chunks."""

from __future__ import annotations

import torch

from vtblender_nemo.modules.losses import target_nll


def test_equals_cross_entropy_with_its_gradients_in_chunks() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50)
    targets = torch.randint(0, 50, (23,))
    results = []
    for chunk_rows in (100, 5):
        hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        head.zero_grad()
        nll = target_nll(hidden, targets, head, chunk_rows=chunk_rows)
        nll.sum().backward()
        results.append((nll.detach(), hidden.grad, head.weight.grad.clone()))
    hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(1))
    wanted = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(results[0][0], wanted)
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_without_targets_the_sum_is_zero_and_differentiable() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    loss = target_nll(hidden, torch.zeros(0, dtype=torch.long), torch.nn.Linear(8, 5)).sum()
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
