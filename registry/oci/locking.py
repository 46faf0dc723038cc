"""File locks: opening the file to lock, and waiting for another process that holds it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.errors import RegistryUnwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_POLL_S = 0.05

_log = logging.getLogger(__name__)


def open_own(path: Path) -> int:
    """Return a descriptor of the file `path`, opened for reading and writing, and created if it is missing.

    In a registry that others may write to, a name can be a link that they planted; it is never followed.

    Raises:
        RegistryUnwritable: `path` is a link, or not a regular file.
        OSError: it can't be opened.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _planted(path) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _planted(path)
    return file


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of the file `path`, and yield whether it was free; links and other kinds of files have none.

    Raises:
        FileNotFoundError: it is gone.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        yield True
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(file)


def _planted(path: Path) -> RegistryUnwritable:
    return RegistryUnwritable(
        f"{path} is a link or not a file, and may have been planted: remove it, and find out who may "
        "write to this registry"
    )


def lock(
    file: int,
    patience_s: float,
    *,
    waiting: str,
    too_long: str,
    progress: Callable[[], int] = lambda: 0,
    shared: bool = False,
) -> None:
    """Lock the open file `file`; closing it, or the end of the process, unlocks it.

    Args:
        file: its descriptor.
        patience_s: how long another process may hold the lock without progress.
        waiting: logged once if the lock isn't free.
        too_long: the error's message.
        progress: a number that changes while the other process gets on.
        shared: several processes may hold this lock at once, but none that asks for it alone.

    Raises:
        RegistryUnwritable: another process held the lock for `patience_s` without progress.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    seen: int | None = None
    give_up_at = 0.0
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            now, done = time.monotonic(), progress()
            if seen is None:
                _log.info(waiting)
            if done != seen:
                seen, give_up_at = done, now + patience_s
            elif now >= give_up_at:
                raise RegistryUnwritable(too_long) from None
            time.sleep(_POLL_S)
        else:
            return
