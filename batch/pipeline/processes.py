"""Child processes that answer messages over pipes, one after the other, and end with this process.

Not a pool of `concurrent.futures` or `loky`: a pool gives up all its work when one process dies, and moves pixels
through pickles.
"""

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
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LENGTH_BYTES = 8
_LONGEST = 2**32
"""A longer length means that stray output corrupted the stream."""


class Process:
    """A module, run with `-m` in a child process."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] = os.environ) -> None:
        # The child ends when its pipe closes. A SIGTERM to all processes of a container must reach only the run, which
        # may need this child to finish a chunk; so the child is started with SIGTERM blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            # -P: a folder named `batch` in the working directory must not be imported. In a session of its own, the
            # child does not get Ctrl-C.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                # Passwords of registry and keys are none of their business. A process with one thread can fork.
                env={
                    name: value
                    for name, value in environment.items()
                    if not name.startswith(("TANDEM_REGISTRY_", "TANDEM_KEY_"))
                }
                | {"OPENBLAS_NUM_THREADS": "1"},
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
        """Wait for the bytes of `array`, and fill it.

        Raises:
            OSError, EOFError: the process has ended.
        """
        # An empty view can't be cast.
        if array.size and self._replies.readinto(array.data.cast("B")) < array.nbytes:
            raise EOFError

    def has_message(self) -> bool:
        """Return whether `receive` would return, or raise, at once."""
        replies = select.poll()  # `select` takes no descriptor above 1,023
        replies.register(self._replies, select.POLLIN)
        return bool(replies.poll(0))

    def exit_code(self) -> int | None:
        """Return the code of a process that has ended, negative for a signal; None if it runs on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=1)  # its pipe closes an instant before it ends
        return None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(OSError), self._process:  # closing a pipe flushes it
            pass


def pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return, in a child, the file of messages to it and the file of messages from it."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # output that a codec prints must not enter the stream
    return sys.stdin.buffer, replies


def send(file: IO[bytes], message: bytes) -> None:
    """Write a message."""
    file.write(len(message).to_bytes(_LENGTH_BYTES, "little"))
    file.write(message)
    file.flush()


def receive(file: IO[bytes]) -> bytes:
    """Read a message.

    Raises:
        EOFError: the other side has ended, or the stream is corrupt.
    """
    header = file.read(_LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    if len(header) < _LENGTH_BYTES or length > _LONGEST:
        raise EOFError
    message = file.read(length)
    if len(message) < length:
        raise EOFError
    return message
