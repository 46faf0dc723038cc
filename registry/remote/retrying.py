"""Retries: transient failures get up to four tries within one time limit; other failures are final."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

from classifier.environment import seconds_in
from classifier.errors import RegistryError
from registry.oci.receiving import DamagedInTransit
from registry.remote.failures import TransientFailure

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 4
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 10.0
_DEFAULT_TIME_LIMIT_S = 120.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def time_limit_s() -> float:
    """Return how many seconds one request may keep failing or stay silent: `$TANDEM_REGISTRY_TIMEOUT`, else 120.

    Raises:
        RegistryError: the variable is not a number of seconds.
    """
    try:
        return seconds_in("TANDEM_REGISTRY_TIMEOUT", _DEFAULT_TIME_LIMIT_S)
    except ValueError as error:
        raise RegistryError(str(error)) from error


def retry(operation: Callable[[], _T], *, limit_s: float) -> _T:
    """Call `operation` until it succeeds, at most four times, each begun within `limit_s`; return its result.

    The waits between tries follow the registry's `Retry-After`, else grow, with jitter. If a wait would pass the limit,
    the failure is raised at once.

    Raises:
        TransientFailure: the last try's failure.
        DamagedInTransit: the last try's failure, if its data was damaged.
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
    # Jitter, so that clients that were refused together don't return together.
    return min(_FIRST_WAIT_S * 2.0 ** (number - 2), _LONGEST_WAIT_S) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
