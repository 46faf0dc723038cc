"""Files that a command writes beside what it prints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from classifier.errors import OutputError
from classifier.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path


def check_writable(*files: Path | None) -> None:
    """Check that results can be written, before the work that they need; None stands for no file.

    Raises:
        OutputError: a folder is missing or read-only, or two results are the same file.
    """
    named = [file for file in files if file is not None]
    for file in named:
        if not os.access(file.absolute().parent, os.W_OK):
            raise OutputError(f"'{file}' can't be written: its folder is missing or read-only; name another file")
    if len({file.absolute() for file in named}) < len(named):
        raise OutputError(f"'{named[0]}' can't hold two results; name a file for each")


def write_result(file: Path, data: bytes) -> None:
    """Write a result, whole or not at all.

    Raises:
        OutputError: it can't be written.
    """
    try:
        replace_file(file, data)
    except OSError as error:
        raise OutputError(f"'{file}' can't be written ({error.strerror}); name another file") from error
