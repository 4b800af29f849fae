"""The LoRA layer in one step against peft's own."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import PretrainedConfig

from vtblender_nemo.modules.lora import FrozenLoraLinear, add_lora


class Two(nn.Module):
    """Two linear layers of which LoRA takes both."""

    config = PretrainedConfig()  # peft asks for it

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))

    def prepare_inputs_for_generation(self) -> None:
        """peft asks for it, too."""


def make(**config: object) -> nn.Module:
    torch.manual_seed(0)
    model = add_lora(Two(), {"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"], **config})
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return model


def inner(model: nn.Module) -> nn.Module:
    """The module itself, with LoRA inside: peft's wrapper calls it as a language model."""
    return model.get_base_model()


def results(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = inner(model)(x)
    (output.float() ** 2).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "x": x.grad, **gradients}


@pytest.mark.parametrize("autocast", [False, True])
def test_values_and_gradients_are_pefts(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(), torch.randn(2, 7, 6)
    layers = [module for module in model.modules() if isinstance(module, FrozenLoraLinear)]
    assert len(layers) == 2
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = results(model, x)
        monkeypatch.setattr(FrozenLoraLinear, "forward", LoraLinear.forward)
        wanted = results(model, x)
    assert found.keys() == wanted.keys()
    assert len(found) == 6  # A and B of two layers; the layers' own weights have none
    tolerance = {"rtol": 0.05, "atol": 0.1} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    for name in found:
        assert found[name].dtype == wanted[name].dtype
        torch.testing.assert_close(found[name], wanted[name], **tolerance)


def test_gradients_are_those_of_finite_differences() -> None:
    model = make().double()
    x = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: inner(model)(x), (x, *trained))


def test_without_the_adapter_it_is_the_frozen_layer() -> None:
    model, x = make(), torch.randn(4, 6)
    own = Two()
    own.load_state_dict(
        {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): weight
            for name, weight in model.state_dict().items()
            if "lora_" not in name
        }
    )
    with model.disable_adapter():
        torch.testing.assert_close(inner(model)(x), own(x))
    assert not torch.allclose(inner(model)(x), own(x))


def test_dropout_is_pefts_own_and_off_in_eval() -> None:
    model, x = make(lora_dropout=0.5), torch.randn(4, 6)
    assert not torch.equal(inner(model.train())(x), inner(model)(x))
    assert torch.equal(inner(model.eval())(x), inner(model)(x))


def test_merged_weights_compute_the_same() -> None:
    model, x = make(), torch.randn(4, 6)
    before = inner(model)(x)
    model.merge_adapter()
    torch.testing.assert_close(inner(model)(x), before, rtol=1e-4, atol=1e-5)
