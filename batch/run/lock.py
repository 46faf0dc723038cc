"""The lock of an output: one process at a time runs into it, and the lock names that process."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from batch.run.folder import RunFolder, check_output, writing
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
def open_run_folder(path: Path, *, shards: Collection[str] = ()) -> Iterator[RunFolder]:
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
        if not _is_at(lock, folder.lock):
            # Another process removed this lock file after we opened it, so locking it excludes no one.
            raise OutputError(f"another process has just released '{path}'; give the same command again")
        try:
            yield folder
        finally:
            if not folder.began:
                folder.remove(folder_too=is_new)


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


def _is_at(file: IO[Any], path: Path) -> bool:
    """Return whether `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
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
