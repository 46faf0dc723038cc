"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

_WEIGHT_DECAY = 0.05
_WARMUP_FRACTION = 0.1


def make_optimizer(network: nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Return AdamW for the parameters of `network`; biases and normalisation scales get no weight decay."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def lr_factor(step: int, steps: int) -> float:
    """Return the factor for the learning rate at `step` of `steps`: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(_WARMUP_FRACTION * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
