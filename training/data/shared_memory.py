"""Whether processes that load batches can pass them on through shared memory, of which containers have little."""

from __future__ import annotations

import logging
import os
from functools import cache

logger = logging.getLogger(__name__)

_FOLDER = "/dev/shm"  # noqa: S108  where Linux keeps shared memory, not a temporary file
_AHEAD_OF_EACH_WORKER = 2  # torch's `prefetch_factor`
_IN_USE = 2  # one in the network, one being copied to the GPU


def has_room(batch_bytes: int, *, workers: int) -> bool:
    """Return whether shared memory can hold the batches that `workers` processes load ahead.

    If it can't, the first call logs what the user can do.
    """
    needed = batch_bytes * (_AHEAD_OF_EACH_WORKER * workers + _IN_USE)
    try:
        status = os.statvfs(_FOLDER)
    except OSError:
        free = 0
    else:
        free = status.f_bavail * status.f_frsize
    if needed <= free:
        return True
    _explain(-(-needed >> 20) or 1, workers)
    return False


@cache
def _explain(needed_mib: int, workers: int) -> None:
    logger.warning(
        "%s is too small for the %d MiB that %d workers share: they send images through pipes instead, which is "
        "slower; give the container more with --shm-size, or fewer --workers",
        *(_FOLDER, needed_mib, workers),
    )
