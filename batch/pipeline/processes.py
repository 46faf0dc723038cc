"""Processes of this package that answer one message after the other over their pipes, for as long as this one lives."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import io

    from numpy.typing import NDArray

_LENGTH_BYTES = 8
_LONGEST = 2**32
"""No message is as long: it is what something else printed."""


class Process:
    """A module of this package, run by a process of its own."""

    def __init__(self, module: str, *arguments: str) -> None:
        # It ends when its pipe does. A SIGTERM to all processes of a container or a service is for the run alone, which
        # may have images in here that it wants to finish; so it is blocked from the process's first instant on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            # -P: a folder `batch` where the command is called is not this package. A session of its own: Ctrl-C is not
            # for it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with one thread can fork
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._replies = cast("io.BufferedReader", self._process.stdout)

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            OSError: the process has ended.
        """
        send(self._requests, message)

    def receive(self) -> bytes:
        """Wait for a message.

        Raises:
            OSError, EOFError: the process has ended.
        """
        return receive(self._replies)

    def receive_into(self, array: NDArray[Any]) -> None:
        """Wait for so many bytes as the array has.

        Raises:
            OSError, EOFError: the process has ended.
        """
        # A view with nothing in it can't be cast.
        if array.size and self._replies.readinto(array.data.cast("B")) < array.nbytes:
            raise EOFError

    def has_said_something(self) -> bool:
        """Return whether `receive` has something to read, if only that the process has ended."""
        replies = select.poll()  # not `select`, which takes no descriptor above 1,023
        replies.register(self._replies, select.POLLIN)
        return bool(replies.poll(0))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(OSError), self._process:  # closing a pipe writes what it holds
            pass


def pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return where a process of this package gets its messages, and where it sends its own."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a codec's library prints is no message
    return sys.stdin.buffer, replies


def send(file: IO[bytes], message: bytes) -> None:
    """Write a message."""
    file.write(len(message).to_bytes(_LENGTH_BYTES, "little"))
    file.write(message)
    file.flush()


def receive(file: IO[bytes]) -> bytes:
    """Read a message.

    Raises:
        EOFError: the other side has ended, or what came is no message.
    """
    header = file.read(_LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    if len(header) < _LENGTH_BYTES or length > _LONGEST:
        raise EOFError
    message = file.read(length)
    if len(message) < length:
        raise EOFError
    return message
