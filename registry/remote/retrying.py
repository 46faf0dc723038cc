"""Trying again: what may heal is tried up to four times within one time limit, the rest fails at once."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import TYPE_CHECKING, TypeVar

from classifier.errors import RegistryError
from registry.remote.transient import DamagedInTransit, TransientFailure

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 4
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 10.0
_DEFAULT_TIME_LIMIT_S = 120.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def time_limit_s() -> float:
    """Return how long one request may go on failing or giving nothing: `$TANDEM_REGISTRY_TIMEOUT`, else 120 s.

    Raises:
        RegistryError: the variable is no number of seconds.
    """
    text = os.environ.get("TANDEM_REGISTRY_TIMEOUT")
    try:
        seconds = float(text) if text else _DEFAULT_TIME_LIMIT_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RegistryError(f"TANDEM_REGISTRY_TIMEOUT is '{text}', which is no number of seconds: set 120, or less")
    return seconds


def retry(operation: Callable[[], _T], *, limit_s: float) -> _T:
    """Return what `operation` returns, after up to four tries which together begin within `limit_s`.

    Between them it waits as long as the registry's `Retry-After` asks, else longer each time, with jitter. A wait that
    would go past the limit is not begun.

    Raises:
        TransientFailure: every try failed; this is the last one's.
        DamagedInTransit: the same, and what arrived was damaged.
    """
    give_up_at = time.monotonic() + limit_s
    for number in range(1, TRIES):
        try:
            return operation()
        except (TransientFailure, DamagedInTransit) as error:
            wait_s = wait_before(number + 1, error)
            if time.monotonic() + wait_s > give_up_at:
                raise
            _log.info("try %d of %d, in %.1f s: %s", number + 1, TRIES, wait_s, error)
            time.sleep(wait_s)
    return operation()


def wait_before(number: int, error: Exception) -> float:
    """Return the seconds to wait before try `number`, after `error`."""
    if isinstance(error, TransientFailure) and error.retry_after_s is not None:
        return error.retry_after_s
    # Jitter, so that sixteen who were refused together don't come back together.
    return min(_FIRST_WAIT_S * 2.0 ** (number - 2), _LONGEST_WAIT_S) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
