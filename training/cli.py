"""`tandem train`: parse, train, print."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.metrics import EpochMetrics
    from training.run import Run

logger = logging.getLogger(__name__)


@click.command()
@click.argument("data")
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: runs/DATA-1, -2 …]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --run, with its options.")
@click.option(
    "--arch",
    help="small_cnn, or any classification network of torchvision.  [default: small_cnn for images up to 64 pixels, else resnet18]",
)
@click.option(
    "--weights", metavar="DEFAULT|FILE", help="Start from torchvision's weights, or from a file with a state dict."
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 2048),
    help="Sides of the network's input, in pixels.  [default: what the images or the weights suggest]",
)
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Part of each class that validates, where DATA has no val/.",
)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--batch-size", type=click.IntRange(2, 65536), default=64, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(0, 1, min_open=True),
    help="Learning rate after the warm-up.  [default: 0.003; 0.0003 with --weights]",
)
@click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True)
@click.option("--flip/--no-flip", default=None, help="Mirror images at random.  [default: for images above 64 pixels]")
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Stop after so many epochs without a better one.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    help="Processes that read images.  [default: 0 if all fit in memory, else one per CPU, at most 8]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--amp/--no-amp", default=None, help="Mixed precision (bf16, or fp16 on older GPUs).  [default: on a GPU]"
)
@click.pass_context
def train(
    ctx: click.Context, data: str, run_path: Path | None, resume: bool, workers: int | None, **options: Any
) -> None:
    r"""Train an image classifier on DATA, and keep the best epoch in a run folder."""
    from training.config import TrainingOptions, choose_config
    from training.digits import digits_folder
    from training.folders import open_folders
    from training.loop import Trainer
    from training.run import Run
    from training.files import make_next_folder

    root = digits_folder() if data == "digits" else Path(data)
    opts = TrainingOptions(**options)
    folders = open_folders(root, val_fraction=opts.val_fraction, seed=opts.seed)
    if resume:
        run = Run.open(run_path)
        trainer = Trainer(run.config, folders, workers=workers or 0)
    else:
        config = choose_config(folders, opts)
        trainer = Trainer(config, folders, workers=workers or 0)
        run = Run.create(run_path or make_next_folder(Path("runs"), root.name), config, folders)
    best = trainer.train(run)
    click.echo(f"{run.path}: best epoch {best.epoch}, val acc1 {best.val_acc1:.2%}")
