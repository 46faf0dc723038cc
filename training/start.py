"""Starting a new run, and resuming an old one."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.errors import DataError
from training.config import choose_config, choose_device, resolve_weights
from training.data.folders import open_folders
from training.files import check_is_free, lock_folder, make_next_folder
from training.loop import Trainer
from training.run import Run, installed_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from training.config import TrainingConfig
    from training.options import TrainingOptions

logger = logging.getLogger(__name__)


@contextmanager
def begin_run(
    data: Path, options: TrainingOptions, *, path: Path | None, workers: int | None
) -> Iterator[tuple[Run, Trainer]]:
    """Yield a new run and its trainer. Errors in the input are found before the run folder is created.

    Args:
        data: the data set's folder.
        options: the user's.
        path: the run folder; None for the next free `runs/<data>-<n>`.
        workers: processes that load batches; None lets the images decide.

    Raises:
        DataError: the data set, the network's name, the weights or the image size can't be used.
        EngineUnavailable: this machine lacks the requested device or mixed precision.
        OutputError: the run folder already holds files, or can't be written.
    """
    if path is not None:
        check_is_free(path)
    folders = open_folders(data, val_fraction=options.val_fraction, seed=options.seed)
    config = choose_config(folders, options)
    _log_config(config, train=len(folders.train), val=len(folders.val))
    trainer = Trainer(config, folders, workers=workers, skip_unreadable=options.skip_unreadable)
    skipped = None
    if options.skip_unreadable:
        used = {*trainer.train_images.samples, *trainer.val_images.samples}
        skipped = {folders.name_of(sample) for sample in (*folders.train, *folders.val) if sample not in used}
        folders = folders.without(skipped)
    path = path or make_next_folder(Path("runs"), data.resolve().name)
    with lock_folder(path):
        check_is_free(path)  # again, because another process may have started a run meanwhile
        yield Run.create(path, config, folders, skipped=skipped), trainer


@contextmanager
def resume_run(
    path: Path, data: Path, given: Mapping[str, object], *, workers: int | None
) -> Iterator[tuple[Run, Trainer]]:
    """Yield the run in `path` and its trainer, in the state after the last complete epoch.

    Args:
        path: the run folder.
        data: the data set's folder, where it is now.
        given: the options on this command line; they must equal those that the run was started with, except for
            `--epochs` and `--patience`, which say when the run ends.
        workers: processes that load batches; None lets the images decide.

    Raises:
        DataError: there is no run, it was started with other images or options, or it has more epochs already.
        EngineUnavailable: this machine lacks the run's device.
        OutputError: another process is training in the folder.
    """
    run = Run.open(path)
    options = dict(given)
    if isinstance(weights := given.get("--weights"), str):
        options["--weights"] = resolve_weights(weights)
    ends = {name: options.pop(f"--{name}") for name in ("epochs", "patience") if f"--{name}" in options}
    _check_same_options(run, options)
    choose_device(run.config.device)
    folders = run.open_folders(data)
    if changed := sorted(name for name, value in installed_versions().items() if run.versions.get(name) != value):
        logger.warning("the result may differ from an uninterrupted run, because these changed: %s", ", ".join(changed))
    with lock_folder(path):
        checkpoint = run.load_checkpoint()
        done = 0 if checkpoint is None else len(checkpoint.history)
        if checkpoint is not None:
            run.write_derived(checkpoint)
        now = _with_other_end(run, done, ends).at(data)
        if now != run:
            now.write_record()
        logger.info("%s continues after epoch %d of %d", path, done, now.config.epochs)
        yield now, Trainer(now.config, folders, workers=workers, checkpoint=checkpoint)


def _with_other_end(run: Run, done: int, ends: Mapping[str, Any]) -> Run:
    """Return the run with another number of epochs, or another patience."""
    config = replace(run.config, **ends)
    if config.epochs < done:
        raise DataError(f"{run.path} has {done} epochs already, so --epochs {config.epochs} is too few: leave it out")
    if config.epochs != run.config.epochs:
        logger.info(
            "%s now has %d epochs instead of %d: from here on, the learning rate is that of a run with %d",
            *(run.path, config.epochs, run.config.epochs, config.epochs),
        )
    return replace(run, config=config)


def _log_config(config: TrainingConfig, *, train: int, val: int) -> None:
    size = config.preprocessing.crop_size
    logger.info(
        "%s has %d classes, %s images to train and %s to validate",
        config.data,
        len(config.labels),
        f"{train:,}",
        f"{val:,}",
    )
    logger.info(
        "training %s%s at %d × %d pixels on %s in %s",
        config.architecture,
        "" if config.weights is None else f" from {config.weights}",
        size,
        size,
        config.device,
        config.precision,
    )


def _check_same_options(run: Run, given: Mapping[str, object]) -> None:
    config = run.config
    started_with = {
        "--arch": config.architecture,
        "--weights": config.weights,
        "--image-size": config.preprocessing.crop_size,
        "--decode": config.preprocessing.decode,
        "--val-fraction": config.val_fraction,
        "--skip-unreadable": run.skipped_files() is not None,
        "--batch-size": config.batch_size,
        "--lr": config.lr,
        "--label-smoothing": config.label_smoothing,
        "--flip": config.flip,
        "--seed": config.seed,
        "--device": config.device,
        "--amp": config.precision != "fp32",
    }
    differences = [
        f"{name} was {started_with[name]}, not {value}" for name, value in given.items() if started_with[name] != value
    ]
    if differences:
        raise DataError(
            f"{run.path} was started with other options ({'; '.join(differences)}): leave them out, or start a new run"
        )
