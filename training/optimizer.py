"""The optimizer, and how its learning rate moves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

_WEIGHT_DECAY = 0.05
_WARMUP_FRACTION = 0.1


def make_optimizer(network: nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Return AdamW over the parameters of `network`."""
    # Biases and the scales of normalisation layers are not to shrink.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def lr_factor(step: int, steps: int) -> float:
    """Return what the learning rate is multiplied with at `step` of `steps`: a linear warm-up, then half a cosine."""
    warmup = max(1, round(_WARMUP_FRACTION * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
