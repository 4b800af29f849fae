"""Muon in float32 is PyTorch's Muon without the rounding of bfloat16."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vtblender_nemo.training import muon
from vtblender_nemo.training.muon import muon_class, orthogonalised

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(muon, "bf16_is_fast", lambda accelerator: False)
    return muon_class(torch.device("cpu"))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_singular_values_go_through_the_polynomial(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    values = values / np.linalg.norm(values)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalised(matrix, COEFFICIENTS, 5, 1e-7)
    np.testing.assert_allclose(found.numpy(), left * values @ right, atol=1e-9)


@pytest.mark.parametrize("rule", ["match_rms_adamw", "original"])
def test_steps_are_those_of_pytorch_but_for_rounding(float32: Any, rule: str) -> None:
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((24, 24), (16, 40), (40, 16))]
    others = copy.deepcopy(weights)
    start = [weight.detach().clone() for weight in weights]
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": rule}
    ours, theirs = float32(weights, **settings), torch.optim.Muon(others, **settings)
    for _ in range(4):
        for weight, other in zip(weights, others, strict=True):
            weight.grad = torch.randn_like(weight)
            other.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    for weight, other, before in zip(weights, others, start, strict=True):
        moved, rounded = weight.detach() - before, other.detach() - before
        assert (moved - rounded).norm() < 0.02 * moved.norm()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs.state[others[0]]["momentum_buffer"], ours.state[weights[0]]["momentum_buffer"])


def test_pytorch_computes_where_bfloat16_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "bf16_is_fast", lambda accelerator: True)
    assert muon_class(torch.device("cpu")) is torch.optim.Muon
    monkeypatch.setattr(muon, "bf16_is_fast", lambda accelerator: False)
    assert muon_class(torch.device("cuda")) is torch.optim.Muon
    assert muon_class(torch.device("cpu")) is not torch.optim.Muon


def test_an_old_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(muon.ConfigError, match=r"torch 2\.9 or newer"):
        muon_class(torch.device("cpu"))
