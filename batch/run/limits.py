"""Limits on failures: when so many images failed that the run had better stop and be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from classifier.errors import TooManyFailures
from classifier.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """How many images may fail before the run stops.

    Attributes:
        failures: at most so many; None for any number.
        rate: at most this share of those that are committed, 0…1; None for any.
    """

    failures: int | None = None
    rate: float | None = None

    def check(self, images: int, failed: int) -> None:
        """Check how many of so many images failed.

        Raises:
            TooManyFailures: more than may.
        """
        if self.failures is not None and failed > self.failures:
            self._stop(f"{counted(failed, 'image')} failed, over --max-failures {self.failures:,}")
        if self.rate is not None and failed > self.rate * images:
            self._stop(f"{failed:,} of {counted(images, 'image')} failed, over --max-failure-rate {self.rate:g}")

    def _stop(self, fact: str) -> None:
        raise TooManyFailures(
            f"{fact}; the rows say why: put it right and add --retry-failed, or resume with a higher limit"
        )
