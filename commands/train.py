"""`tandem train`."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from commands.exit_codes import INTERRUPTED
from commands.options import Number, all_of
from training.options import TrainingOptions

if TYPE_CHECKING:
    from training.metrics import EpochMetrics
    from training.run import Run

_DEFAULTS = TrainingOptions()


_training_options = all_of(
    click.option(
        "--arch", metavar="NAME",
        help="small_cnn, or any classification network of torchvision: resnet50, mobilenet_v3_small, …  "
        "[default: small_cnn up to 64 pixels, else resnet18]",
    ),
    click.option(
        "--weights", metavar="DEFAULT|FILE",
        help="Start from torchvision's weights, or from a file with a state dict. The head is replaced if the "
        "number of classes differs.  [default: random weights]",
    ),
    click.option(
        "--image-size", metavar="PIXELS", type=click.IntRange(8, 2048),
        help="Side of the network's input.  [default: the size of the weights, else one that suits the images]",
    ),
    click.option(
        "--decode", type=click.Choice(["exact", "scaled"]), default=_DEFAULTS.decode, show_default=True,
        help="'scaled' lets large JPEGs shrink while they are decoded, never below twice the input: much faster on "
        "photographs, with almost the same pixels. The service and the bulk run decode the same way.",
    ),
    click.option(
        "--val-fraction", metavar="PART", type=Number(0, 1, min_open=True, max_open=True),
        help="Part of each class to validate with if DATA has no val/: 0.2 for a fifth.",
    ),
    click.option(
        "--skip-unreadable", is_flag=True, default=_DEFAULTS.skip_unreadable,
        help="Leave out images that can't be read, and list them in skipped.txt. Without this, they are an error.",
    ),
    click.option(
        "--epochs", type=click.IntRange(min=1), default=_DEFAULTS.epochs, show_default=True,
        help="Maximum number of passes over the training images.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(2, 65_536), default=_DEFAULTS.batch_size, show_default=True,
        help="Images in one step of the optimizer.",
    ),
    click.option(
        "--lr", metavar="RATE", type=Number(0, 1, min_open=True),
        help="Learning rate of AdamW after its warm-up; it then decays to 0 along half a cosine.  "
        "[default: 0.002, with --weights 0.0003]",
    ),
    click.option(
        "--label-smoothing", metavar="PART", type=Number(0, 1, max_open=True),
        default=_DEFAULTS.label_smoothing, show_default=True,
        help="Part of the target's weight that is spread over all labels.",
    ),
    click.option(
        "--flip/--no-flip", default=_DEFAULTS.flip,
        help="Mirror training images at random.  [default: above 64 pixels, since a mirrored digit is not a digit]",
    ),
    click.option(
        "--patience", metavar="EPOCHS", type=click.IntRange(min=1), default=_DEFAULTS.patience, show_default=True,
        help="Stop early after this many epochs without a better one.",
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=_DEFAULTS.seed, show_default=True,
        help="Seed of weights, order, augmentation and --val-fraction. On a CPU, equal seeds give equal weights.",
    ),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default=_DEFAULTS.device, show_default=True,
        help="'auto' takes a GPU if torch can use one.",
    ),
    click.option(
        "--amp/--no-amp", default=_DEFAULTS.amp,
        help="Mixed precision: bf16, or fp16 on GPUs without it.  [default: on GPUs]",
    ),
)  # fmt: skip
"""The options of `TrainingOptions`."""

_EXAMPLE = """\b
Example:
  tandem train digits --run runs/digits
  tandem train photos --val-fraction 0.2 --arch resnet50 --weights DEFAULT
  tandem train digits --run runs/digits --resume
"""


@click.command(short_help="Train an image classifier on folders of images.", epilog=_EXAMPLE)
@click.argument("data")
@click.option(
    "--run", "run_path", metavar="FOLDER", type=click.Path(path_type=Path),
    help="The run folder, new or with --resume.  [default: the next free one of runs/DATA-1, runs/DATA-2, …]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue after the last complete epoch of --run, with its options.")
@_training_options
@click.option(
    "--workers", type=click.IntRange(0, 256),
    help="Processes that load batches; the weights don't depend on them.  "
    "[default: none for small images that fit in memory, else one for each CPU, at most 8]",
)  # fmt: skip
@click.pass_context
def train(
    ctx: click.Context, /, *, data: str, run_path: Path | None, resume: bool, workers: int | None, **options: Any
) -> None:
    """Train an image classifier on DATA, and keep the epoch with the best validation acc1 in a run folder.

    DATA is a folder with train/ and val/, each with a folder of images for every class; training/, valid/ and
    validation/ mean the same. Or it is a folder of classes, with --val-fraction. Or it is 'digits', if there is no
    folder of that name: handwritten digits, which are written to $TANDEM_HOME/datasets/digits.

    Ctrl-C keeps the last complete epoch, and --resume continues from there, with the same images, wherever DATA is now.
    With --resume, --epochs and --patience change when the run ends.

    Exit codes: 0 done, 1 could not run, 2 wrong usage, 130 interrupted.
    """
    if resume and run_path is None:
        raise click.UsageError("--resume needs --run, the folder of the run to go on with")
    resumable = run_path if resume else None
    try:
        # By default torch's threads wait for each other in a busy loop. If another program needs the same cores, or a
        # container has a CPU quota, training takes ten times as long. torch reads this when it is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from training.start import begin_run, resume_run  # imports torch, which --help does not need

        folder = _data_folder(data)
        if resume:
            assert run_path is not None
            session = resume_run(run_path, folder, _given(ctx, options), workers=workers)
        else:
            session = begin_run(folder, TrainingOptions(**options), path=run_path, workers=workers)
        with session as (run, trainer):
            resumable = run.path
            best = trainer.train(run)
    except KeyboardInterrupt:
        click.echo(_how_to_go_on(data, resumable), err=True)
        ctx.exit(INTERRUPTED)
    _print_result(run, best)


def _data_folder(data: str) -> Path:
    """Return the folder that DATA means: 'digits' itself only if there is no such folder."""
    if data != "digits" or Path(data).is_dir():
        return Path(data)
    from training.data.digits import digits_folder

    return digits_folder()


def _given(ctx: click.Context, options: dict[str, Any]) -> dict[str, object]:
    """Return the options given on the command line, by name."""
    given = {
        f"--{name.replace('_', '-')}": value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if given.get("--device") == "auto":
        del given["--device"]
    return given


def _how_to_go_on(data: str, run_path: Path | None) -> str:
    if run_path is None:
        return "Interrupted before the first epoch; nothing was kept."
    return f"Interrupted; continue with: {shlex.join(['tandem', 'train', data, '--run', str(run_path), '--resume'])}"


def _print_result(run: Run, best: EpochMetrics) -> None:
    click.echo(f"best epoch {best.epoch}: val acc1 {best.val_acc1:.2%}, val loss {best.val_loss:.4f} → {run.path}")
    # The characters that a reference allows.
    name = re.sub("[^a-z0-9]+", "-", Path(run.config.data).name.lower()).strip("-") or "my-model"
    click.echo(f"export it with: {shlex.join(['tandem', 'export', str(run.path), '--name', name])}")
