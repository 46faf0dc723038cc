"""What stops a run before its end: a signal, or too many failed images. All that is committed stays."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from classifier.errors import TooManyFailures
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end.

    Attributes:
        exit_code: 130 for SIGINT, 143 for SIGTERM, as in shells.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.exit_code = 128 + signum


class Interrupts:
    """While entered, SIGINT and SIGTERM raise `Interrupted`: the first after the current chunk, the second at once."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: int | None = None

    def __enter__(self) -> Self:
        self._previous = {signum: signal.signal(signum, self._on_signal) for signum in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay the first signal until the block ends, so that the current chunk is finished."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._waiting is not None:
            raise Interrupted(self._waiting)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_held or self._waiting is not None:
            raise Interrupted(signum)
        self._waiting = signum
        # os.write: a signal can come in the middle of a log line, and a stream can't be entered twice.
        os.write(2, b"\nFinishing the current chunk; a second signal stops at once.\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """How many images may fail before the run stops.

    Attributes:
        failures: maximum; None for unlimited.
        rate: maximum share of the committed images, 0…1; None for unlimited.
    """

    failures: int | None = None
    rate: float | None = None

    def check(self, images: int, failed: int) -> None:
        """Check that `failed` of `images` images are within the limits.

        Raises:
            TooManyFailures: they are not.
        """
        if self.failures is not None and failed > self.failures:
            self._stop(f"{counted(failed, 'image')} failed, over --max-failures {self.failures:,}")
        if self.rate is not None and failed > self.rate * images:
            self._stop(f"{failed:,} of {counted(images, 'image')} failed, over --max-failure-rate {self.rate:g}")

    def _stop(self, fact: str) -> None:
        raise TooManyFailures(
            f"{fact}; the rows say why: put it right and add --retry-failed, or resume with a higher limit"
        )
