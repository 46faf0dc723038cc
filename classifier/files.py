"""Files that appear whole or not at all, and survive a power failure: written aside, synced, renamed."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPORARY = ".tandem-"
"""How the names of unfinished files begin."""


@contextmanager
def open_replacement(path: Path, *, aside: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends; readers see the whole old file or the whole new one.

    Args:
        path: the file to replace.
        aside: the temporary file, on the same file system; None takes a new name beside `path`.

    Raises:
        OSError: the file can't be written. After this or any other error, the old file stays.
    """
    temporary = aside or path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, *, aside: Path | None = None) -> None:
    """Write `data` to `path`, as `open_replacement` does."""
    with open_replacement(path, aside=aside) as file:
        file.write(data)


def sync_folder(path: Path) -> None:
    """Write the names in the folder `path` to the disk, before anything refers to them."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def nearest_folder(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    absolute = path.absolute()
    # os.path.isdir is false where Path.is_dir raises: below a folder that may not be searched.
    return next(folder for folder in (absolute, *absolute.parents) if os.path.isdir(folder))  # noqa: PTH112
