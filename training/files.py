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
