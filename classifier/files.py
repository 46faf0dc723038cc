"""Files that appear whole, and are still there after the power went: written aside, synced, renamed."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY = ".tandem-"
"""How the names of unfinished files begin."""


def replace_file(path: Path, data: bytes) -> None:
    """Put a file with `data` at `path`, so that at any moment there is the old file or the new, whole."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring the names in the folder `path` to the disk, before anything refers to them."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
