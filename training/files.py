"""The files of a run folder: their names, and how they are written without damage to another run."""

from __future__ import annotations

import fcntl
import itertools
import os
import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from classifier.errors import OutputError
from classifier.files import nearest_folder, open_replacement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD = "run.json"
LABELS = "labels.json"
VALIDATION = "validation.txt"
SKIPPED = "skipped.txt"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"

NOT_A_TORCH_FILE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)
"""What `torch.load` raises for bytes that `torch.save` did not write."""


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends.

    Raises:
        OutputError: the disk is full, or the folder can't be written; the old file stays.
    """
    try:
        # Always the same name, so that the next write removes what a kill left behind.
        with open_replacement(path, aside=path.with_name(f".{path.name}.tmp")) as file:
            yield file
    except OSError as error:
        raise unwritable(path, error) from error
    except RuntimeError as error:
        # torch.save hides the cause: it fails to close its archive, and raises a RuntimeError for that.
        match error.__context__:
            case OSError() as reason:
                raise unwritable(path, reason) from error
            case KeyboardInterrupt() as reason:
                raise reason from error
        raise


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error that says why `path` can't be written."""
    return OutputError(f"{path} can't be written ({error.strerror}): fix that, or choose another --run")


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Lock the folder `path`, created if necessary, against other trainings until the block ends.

    Raises:
        OutputError: another process holds the lock, or the folder can't be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Lock the folder itself: a lock file could be deleted while another process is about to lock it.
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OutputError(f"another process is training in {path}: wait until it ends, or stop it") from error
    finally:
        os.close(folder)


def make_next_folder(parent: Path, name: str) -> Path:
    """Create and return the folder `<name>-<n>` in `parent`, with the lowest free n from 1.

    Raises:
        OutputError: the folder can't be created.
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
    """Check that a new run can be written to `path`.

    Raises:
        OutputError: `path` is a file, holds other files, or can't be created.
    """
    if (path / RECORD).exists():
        raise OutputError(f"{path} already holds a run: add --resume to continue it, or choose another --run")
    try:
        # A training killed early leaves these files without a run.
        others = {entry.name for entry in path.iterdir()} - {LABELS, VALIDATION, SKIPPED}
    except FileNotFoundError:
        _check_can_be_created(path)
        return
    except NotADirectoryError as error:
        raise OutputError(f"{path} is a file: choose another --run") from error
    except OSError as error:
        raise unwritable(path, error) from error
    if others:
        raise OutputError(f"{path} holds files that are not a run ({min(others)}): choose another --run")


def _check_can_be_created(path: Path) -> None:
    # Only an early warning, before a large data set is read; creating the folder gives the final answer.
    parent = nearest_folder(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} can't be created, because {parent} is not writable: choose another --run")
