"""Writing into a run folder: whole files or none, and never over another run."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    except (OSError, RuntimeError) as error:
        # torch.save hides an OSError behind a RuntimeError where its own archive can't be closed.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise unwritable(path, reason) from error
    finally:
        aside.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error that says why `path` can't be written."""
    return OutputError(
        f"{path} can't be written ({error.strerror}): free or mount what it needs, or choose another --run"
    )


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
