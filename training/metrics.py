"""What an epoch came to, which epoch is the best, and how both are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """What one epoch came to: a line of `metrics.jsonl`.

    Attributes:
        epoch: from 1.
        loss: mean loss of the training images, augmented, while the network learned from them.
        acc1: part of them whose best label was right.
        val_loss: mean loss of the validation images, with label smoothing as in training.
        val_acc1: part of the validation images whose best label was right.
        lr: learning rate of the epoch's last step.
        images_per_s: of training.
        elapsed_s: of training and validation.
    """

    epoch: int
    loss: float
    acc1: float
    val_loss: float
    val_acc1: float
    lr: float
    images_per_s: float
    elapsed_s: float


def best_epoch(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """Return the epoch of the highest validation acc1; of equal ones that of the lowest loss, then the first."""
    return max(history, key=lambda metrics: (metrics.val_acc1, -metrics.val_loss))


def describe_epoch(history: Sequence[EpochMetrics], epochs: int) -> str:
    """Return the last epoch in one line."""
    last = history[-1]
    best = "  best" if best_epoch(history) is last else ""
    return (
        f"epoch {last.epoch:>{len(str(epochs))}}/{epochs}  loss {last.loss:.4f}  acc1 {last.acc1:6.2%}  "
        f"val loss {last.val_loss:.4f}  val acc1 {last.val_acc1:6.2%}  lr {last.lr:.1e}  "
        f"{last.images_per_s:,.0f} images/s{best}"
    )
