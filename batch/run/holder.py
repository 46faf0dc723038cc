"""Who runs a batch into an output: the lock says that somebody does, and what stands in it says who."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from classifier.types import from_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

_TRIES = 5
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        pid: as the process knows itself: in a container, that of its own name space.
    """

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def take(lock: IO[bytes]) -> bool:
    """Return whether this process holds the lock now. The kernel drops it when the process ends, however it ends."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_S)  # held by a run; or for an instant by `is_held`, which only looks
        else:
            with suppress(OSError):  # a note for people, which a full disk may not hold
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), to_json(Holder(pid=os.getpid(), host=platform.node())))
            return True
    return False


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock in the file `path`; False, too, where it can't be seen from here."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_holder(path: Path) -> Holder | None:
    """Return who holds the lock in the file `path`, or held it last; None where that isn't known."""
    try:
        return from_json(path.read_bytes(), Holder)
    except (OSError, ValueError):
        return None
