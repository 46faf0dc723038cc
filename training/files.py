"""The files of a run folder: their names, and how they are written: whole or not at all, never over another run's."""

from __future__ import annotations

import fcntl
import itertools
import os
import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD = "run.json"
LABELS = "labels.json"
VALIDATION = "validation.txt"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"

NO_TORCH_FILE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)
"""What `torch.load` raises on bytes that `torch.save` did not write."""


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends, complete and on the disk, or not at all.

    Raises:
        OutputError: the disk is full, or the folder can't be written; what was at `path` stays.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    except RuntimeError as error:
        # torch.save hides what happened behind a RuntimeError: its archive can't be closed then.
        match error.__context__:
            case OSError() as reason:
                raise unwritable(path, reason) from error
            case KeyboardInterrupt() as reason:
                raise reason from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error that says why `path` can't be written."""
    return OutputError(f"{path} can't be written ({error.strerror}): make room or mend that, or choose another --run")


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other processes from training into the folder `path`, which is made if need be, until the block ends.

    Raises:
        OutputError: one does, or the folder can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The folder itself: a file in it could be replaced between two processes' looks at it.
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OutputError(f"another process is training in {path}: let it end, or stop it") from error
    finally:
        os.close(folder)


def make_next_folder(parent: Path, name: str) -> Path:
    """Return the new folder `<name>-<n>` in `parent`, with the lowest n for which there was none.

    Raises:
        OutputError: it can't be made.
    """
    for number in itertools.count(1):
        path = parent / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(path, error) from error
        return path
    raise AssertionError


def check_is_free(path: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        OutputError: it does, or it is a file.
    """
    if (path / RECORD).exists():
        raise OutputError(f"{path} holds a run already: add --resume to go on with it, or choose another --run")
    try:
        # What a kill may have left before there was a run.
        others = {entry.name for entry in path.iterdir()} - {LABELS, VALIDATION}
    except FileNotFoundError:
        _check_can_be_made(path)
        return
    except NotADirectoryError as error:
        raise OutputError(f"{path} is a file: choose another --run") from error
    except OSError as error:
        raise unwritable(path, error) from error
    if others:
        raise OutputError(f"{path} holds something that is not a run ({min(others)}): choose another --run")


def _check_can_be_made(path: Path) -> None:
    # Only an early word, before a large data set is read: making the folder is what decides.
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} can't be made, because {parent} can't be written: choose another --run")
