"""The lock of an output: one process at a time runs into it, and the lock names that process."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from batch.run.folder import RunFolder, check_output, reading, writing
from batch.run.locked import LockedFolder
from classifier.errors import OutputError
from classifier.files import sync_folder
from classifier.types import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_TRIES = 5
_WAIT_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        pid: as the process sees itself: in a container, the pid of the container's own name space.
    """

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def open_run_folder(path: Path, *, shards: Collection[str] = ()) -> Iterator[LockedFolder]:
    """Yield the output folder, made if missing, and locked. If no run begins in it, it is left as it was.

    Args:
        path: the output.
        shards: names that may be in the folder beside a run's own.

    Raises:
        OutputError: it can't be written, or another process runs in it.
    """
    check_output(path, shards=shards)
    folder = RunFolder(path)
    is_new = not path.exists()
    with writing(path):
        folder.state.mkdir(parents=True, exist_ok=True)
        if is_new:
            sync_folder(path.absolute().parent)
        lock = folder.lock.open("ab")
    with lock:
        if not _take(lock):
            raise OutputError(
                f"another process is running a batch into '{path}'; wait until it ends, or name another --output"
            )
        with LockedFolder(path, lock) as locked:
            if not locked.is_in_place:
                # Another process removed this lock file after we opened it, so locking it excludes no one.
                raise OutputError(f"another process has just released '{path}'; give the same command again")
            try:
                yield locked
            finally:
                if not locked.began:
                    locked.remove(folder_too=is_new)


@contextmanager
def unchanging(folder: RunFolder) -> Iterator[None]:
    """Keep every run out of a folder for the block, without writing into it.

    Raises:
        OutputError: a process runs into it, or its lock can't be opened.
    """
    with reading(folder.lock):
        lock = os.fdopen(os.open(folder.lock, os.O_RDONLY | os.O_CREAT, 0o666), "rb")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another process is running a batch into '{folder.path}'; wait until it ends, and give the same "
                "command again"
            ) from None
        yield


def _take(lock: IO[bytes]) -> bool:
    """Return whether this process holds the lock now. The kernel releases it when the process ends, in any way."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_WAIT_S)  # a run holds it; or, for an instant, `is_held`
        else:
            with suppress(OSError):  # a note for people; a full disk may not take it
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), to_json(Holder(pid=os.getpid(), host=platform.node())))
            return True
    return False


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file `path`; False if that can't be seen from here."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_holder(path: Path) -> Holder | None:
    """Return the process that holds the lock file `path`, or held it last; None if unknown."""
    try:
        return from_json(path.read_bytes(), Holder)
    except (OSError, ValueError):
        return None
