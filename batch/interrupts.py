"""SIGINT and SIGTERM: the first lets the chunk in hand be committed, the second ends the run at once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
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
    """While it is entered, SIGINT and SIGTERM raise `Interrupted`; the first one waits where `patient` is set.

    Attributes:
        patient: whether there is a chunk in hand that is worth finishing.
    """

    def __init__(self) -> None:
        self.patient = False
        self._signum: int | None = None

    def __enter__(self) -> Self:
        self._previous = {signum: signal.signal(signum, self._on_signal) for signum in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise `Interrupted` where a signal waits."""
        if self._signum is not None:
            raise Interrupted(self._signum)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.patient or self._signum is not None:
            raise Interrupted(signum)
        self._signum = signum
        # os.write: a signal can come in the middle of a log line, and streams can't be entered twice.
        os.write(2, b"\nFinishing the chunk in hand; once more ends it now.\n")
