"""Copies what the parts of a service count in plain numbers into the metrics, once a second.

A scrape reaches one worker, which reads the others' metrics from files. So each worker writes its own ahead of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.admission import Admission
    from service.cache import Level, ResultCache
    from service.log import PredictionLog
    from service.metrics import Known
    from service.scoring import Scorer

EVERY_S = 1.0


class Sampling:
    """Samples numbers into the metrics `known`."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._followed: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample now, and then once a second on the running event loop, until `close`."""
        try:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self.start)
        except RuntimeError:
            return  # used from Python, without a server that could be scraped
        self.sample()

    def close(self) -> None:
        """Sample for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        self.sample()

    def sample(self) -> None:
        """Copy the numbers now."""
        for copy in self._followed:
            copy()

    def follow_load(self, admission: Admission, scorer: Scorer) -> None:
        """Follow how many requests are in flight, and how many images wait."""
        self._follow_gauge(self._known.in_flight, lambda: admission.in_flight)
        self._follow_gauge(self._known.waiting, lambda: scorer.waiting)

    def follow_cache(self, cache: ResultCache) -> None:
        """Follow a cache of results."""
        for level in cache.counts:
            self._follow_level_of(cache, level)
        self._follow_count(self._known.cache_dropped, lambda: cache.dropped)
        self._follow_gauge(self._known.cache_bytes, lambda: cache.held_bytes)

    def follow_log(self, log: PredictionLog) -> None:
        """Follow a prediction log."""
        self._follow_count(self._known.log_written, lambda: log.written)
        self._follow_count(self._known.log_dropped, lambda: log.dropped)
        self._follow_gauge(self._known.log_queued, lambda: log.queued)

    def _follow_level_of(self, cache: ResultCache, level: Level) -> None:
        self._follow_count(self._known.cache_hits[level], lambda: cache.counts[level].hits)
        self._follow_count(self._known.cache_misses[level], lambda: cache.counts[level].misses)
        self._follow_count(self._known.cache_errors[level], lambda: cache.counts[level].errors)

    def _follow_gauge(self, gauge: Any, read: Callable[[], float]) -> None:
        self._followed.append(lambda: gauge.set(read()))

    def _follow_count(self, counter: Any, read: Callable[[], int]) -> None:
        seen = 0

        def copy() -> None:
            nonlocal seen
            now = read()
            counter.inc(now - seen)
            seen = now

        self._followed.append(copy)
