"""Trying again: what may heal is tried up to four times within one time limit, the rest fails at once."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from classifier.errors import RegistryError
from registry.transient import DamagedInTransit, TransientFailure

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 4
_BACKOFF = wait_exponential_jitter(multiplier=0.25, max=10, jitter=0.25)
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
    tries = Retrying(
        retry=retry_if_exception_type((TransientFailure, DamagedInTransit)),
        stop=stop_after_attempt(TRIES) | stop_before_delay(limit_s),
        wait=_wait,
        before_sleep=_say,
        reraise=True,
    )
    return tries(operation)


def _failure(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _wait(state: RetryCallState) -> float:
    asked = getattr(_failure(state), "retry_after_s", None)
    return _BACKOFF(state) if asked is None else max(asked, 0.05)


def _say(state: RetryCallState) -> None:
    _log.info("try %d of %d, in %.1f s: %s", state.attempt_number + 1, TRIES, state.upcoming_sleep, _failure(state))
