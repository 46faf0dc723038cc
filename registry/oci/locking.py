"""Waiting for a file lock that another process holds."""

from __future__ import annotations

import fcntl
import logging
import time
from typing import TYPE_CHECKING

from classifier.errors import RegistryUnwritable

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S = 0.05

_log = logging.getLogger(__name__)


def lock(file: int, patience_s: float, *, waiting: str, too_long: str, progress: Callable[[], int] = lambda: 0) -> None:
    """Lock the open file `file` exclusively; closing it, or the end of the process, unlocks it.

    Args:
        file: its descriptor.
        patience_s: how long another process may hold the lock without progress.
        waiting: logged once if the lock isn't free.
        too_long: the error's message.
        progress: a number that changes while the other process gets on.

    Raises:
        RegistryUnwritable: another process held the lock for `patience_s` without progress.
    """
    seen: int | None = None
    give_up_at = 0.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
