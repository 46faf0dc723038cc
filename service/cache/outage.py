"""When a failing Redis is left alone, and what the log says about it."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
LOG_EVERY_S = 60.0


class Outage:
    """Pauses one use of a Redis after a failure, twice as long after each further one.

    Args:
        use: what fails, for the log: `lookups in the result cache at redis://localhost:6379`.
    """

    def __init__(self, use: str) -> None:
        self._use = use
        self._pause_s = 0.0
        self._paused_until = 0.0
        self._logged_at = float("-inf")
        self._is_reported = False

    @property
    def is_paused(self) -> bool:
        """Whether to leave the Redis alone now."""
        return self._pause_s > 0 and time.monotonic() < self._paused_until

    def failed(self, why: str) -> None:
        """Begin a pause; log it, but at most once a minute."""
        now = time.monotonic()
        self._pause_s = min(max(2 * self._pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        self._paused_until = now + self._pause_s
        if now - self._logged_at >= LOG_EVERY_S:
            log.warning("%s fail: %s. Requests are answered without it.", self._use, why)
            self._logged_at, self._is_reported = now, True

    def worked(self) -> None:
        """End the outage; log its end if its beginning was."""
        self._pause_s = 0.0
        if self._is_reported:
            log.info("%s work again", self._use)
            self._is_reported = False
