"""SIGINT and SIGTERM: the first lets the chunk in hand be committed, the second ends the run at once."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to end.

    Attributes:
        exit_code: 130 for SIGINT, 143 for SIGTERM, as shells have it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.exit_code = 128 + signum


class Interrupts:
    """While it is entered, SIGINT and SIGTERM raise `Interrupted`."""

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
        """Let the first signal wait until the block has ended: what is in hand is worth finishing."""
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
        # os.write: a signal can come in the middle of a log line, and streams can't be entered twice.
        os.write(2, b"\nFinishing the chunk in hand; once more ends it now.\n")
