"""Read the bytes of an image file, within the limits."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from classifier.errors import UnreadableImage
from classifier.images.limits import LIMITS, Limits, too_many_bytes

if TYPE_CHECKING:
    from pathlib import Path


def read_image(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of the image file `path`. Never waits on a pipe or reads past `limits.max_bytes`.

    Raises:
        UnreadableImage: the file is missing (reason `missing`), a folder, pipe or device (`not_a_file`), not readable
            by this user (`permission_denied`), or its disk fails (`unreadable`).
        ImageTooLarge: the file is over `limits.max_bytes`.
    """
    name = repr(str(path))  # Escaped: a name may hold line breaks, or bytes that are not UTF-8.
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{name} is not a regular file: give an image file", reason="not_a_file")
            if status.st_size > limits.max_bytes:
                raise too_many_bytes(name, status.st_size, limits)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # Not `max_bytes`: read() allocates what it is asked for.
                data = file.read(status.st_size + 1)
                if len(data) > status.st_size:  # It has grown since, or is a file of /proc, which says 0 bytes.
                    data += file.read(limits.max_bytes + 1 - len(data))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableImage(f"{name} does not exist: check the path", reason="missing") from error
    except PermissionError as error:
        raise UnreadableImage(
            f"{name} can't be read by this user: grant read permission", reason="permission_denied"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UnreadableImage(f"{name} can't be read ({error}): check the path and the disk") from error
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits)
    return data
