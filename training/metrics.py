"""The metrics of an epoch, and which epoch is the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """The metrics of one epoch: a line of `metrics.jsonl`.

    Attributes:
        epoch: its number, from 1.
        loss: mean loss on the augmented training images, measured while the network was learning from them.
        acc1: fraction of these images with the right top label.
        val_loss: mean loss on the validation images, with label smoothing as in training.
        val_acc1: fraction of the validation images with the right top label.
        lr: learning rate at the epoch's last step.
        images_per_s: training speed.
        elapsed_s: time for training and validation.
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
    """Return the epoch with the highest validation acc1; ties go to the lowest validation loss, then to the first."""
    return max(history, key=lambda metrics: (metrics.val_acc1, -metrics.val_loss))


def describe_epoch(history: Sequence[EpochMetrics], epochs: int) -> str:
    """Return one line about the last epoch of `history`, of `epochs` in all."""
    last = history[-1]
    best = "  best" if best_epoch(history) is last else ""
    return (
        f"epoch {last.epoch:>{len(str(epochs))}}/{epochs}  loss {last.loss:.4f}  acc1 {last.acc1:6.2%}  "
        f"val loss {last.val_loss:.4f}  val acc1 {last.val_acc1:6.2%}  lr {last.lr:.1e}  "
        f"{last.images_per_s:,.0f} images/s{best}"
    )
