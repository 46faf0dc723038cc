"""The bytes of an image file, read with the limits that decoding has."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from classifier.errors import UnreadableImage
from classifier.images.limits import LIMITS, Limits, too_many_bytes

if TYPE_CHECKING:
    from pathlib import Path


def read_image(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of the image file `path`, without waiting on a pipe or reading past `limits.max_bytes`.

    Raises:
        UnreadableImage: it is missing (reason `missing`), a folder, pipe or device (`not_a_file`), closed to this user
            (`permission_denied`), or its disk fails (`unreadable`).
        ImageTooLarge: it is over `limits.max_bytes`.
    """
    name = repr(str(path))  # A name may hold line breaks, or bytes that are no UTF-8.
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{name} is not a regular file: name an image file", reason="not_a_file")
            if status.st_size > limits.max_bytes:
                raise too_many_bytes(name, status.st_size, limits)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # Room for all that it may be would be taken and given back each time.
                data = file.read(status.st_size + 1)
                if len(data) > status.st_size:  # it has grown since
                    data += file.read(limits.max_bytes + 1 - len(data))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableImage(f"{name} does not exist: check the path", reason="missing") from error
    except PermissionError as error:
        raise UnreadableImage(f"{name} may not be read by this user: allow it", reason="permission_denied") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UnreadableImage(f"{name} can't be read ({error}): check the path and the disk") from error
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits)
    return data
