"""A picture of a run's loss and accuracy curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.files import replace_file
from training.metrics import best_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from training.metrics import EpochMetrics

_TRAIN_COLOUR = "#9aa5b1"
_VAL_COLOUR = "#1f6feb"
_TEXT_COLOUR = "#24292f"


def draw_curves(history: Sequence[EpochMetrics], path: Path, *, title: str) -> None:
    """Plot loss and acc1 of every epoch into the PNG file `path`, and mark the best epoch.

    Raises:
        OutputError: the file can't be written.
    """
    epochs = [metrics.epoch for metrics in history]
    best = best_epoch(history)
    marker = "." if len(epochs) < 3 else None  # a line through one point is invisible
    # Not pyplot, which keeps global state and looks for a display.
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, color=_TEXT_COLOUR, fontsize=12)
    panels = figure.subplots(1, 2)
    for axes, train, val, name in (
        (panels[0], [m.loss for m in history], [m.val_loss for m in history], "loss"),
        (panels[1], [m.acc1 for m in history], [m.val_acc1 for m in history], "acc1"),
    ):
        axes.plot(epochs, train, color=_TRAIN_COLOUR, label="train (augmented)", marker=marker)
        axes.plot(epochs, val, color=_VAL_COLOUR, label="validation", marker=marker)
        axes.plot(best.epoch, val[best.epoch - 1], "o", color=_VAL_COLOUR, label=f"best: epoch {best.epoch}")
        axes.set_title(name, loc="left", color=_TEXT_COLOUR)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
