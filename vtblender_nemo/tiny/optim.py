"""The optimiser and the schedule of both trainings of the tiny world.

On equal time, AdamW alone left the tiny encoder at 23 to 45 WER where Muon with AdamW reached 4.4.
"""

from __future__ import annotations

from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vtblender_nemo.training.optim import build_optimizer

_WARMUP_STEPS = 60


def muon_and_adamw(model: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float) -> Optimizer:
    """Muon on the matrices of the layers (its updates scaled to the size of AdamW's), AdamW on all else.

    Args:
        model: whose trainable parameters are optimised.
        muon_lr: peak learning rate of Muon.
        adamw_lr: peak learning rate of AdamW.
        weight_decay: AdamW's; Muon has none.
    """
    part = "model"
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    settings = {"lr": adamw_lr, "betas": [0.9, 0.98], "weight_decay": weight_decay, "muon_lr": {part: muon_lr}}
    return build_optimizer({part: trained}, OmegaConf.create(settings))


def schedule(optimizer: Optimizer, steps: int, decay_share: float) -> LambdaLR:
    """Shares of the peak rates as `learning_rate_share` has them."""
    return LambdaLR(optimizer, lambda step: learning_rate_share(step, steps, _WARMUP_STEPS, decay_share))


def learning_rate_share(step: int, steps: int, warmup_steps: int, decay_share: float) -> float:
    """Share of the peak rate: linear warm-up, flat, then linear to 2% over the last `decay_share` of the steps."""
    left = (steps - step) / steps
    return min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.98 * min(1.0, left / decay_share))
