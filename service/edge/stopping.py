"""How a worker stops: it goes on answering for a moment, then answers what is in flight, then ends.

Uvicorn closes the listening socket and idle connections at once, while proxies and clients still send to them.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from typing import TYPE_CHECKING, Any

import uvicorn

from service import limits
from service.starting import report_ready

if TYPE_CHECKING:
    from types import FrameType


READ_WITHIN_S = 0.25
"""Time to read the requests on connections that were accepted just before the listening socket closed."""


class Stopping:
    """Whether this worker has begun to stop."""

    def __init__(self) -> None:
        self.has_begun = False


stopping = Stopping()


class StoppingServer(uvicorn.Server):
    """Uvicorn's server, which after SIGTERM does three things in turn.

    For `drain_s` it goes on answering: readiness says 503, and each answer closes its connection, so that proxies and
    clients go elsewhere without losing a request. Then it refuses new connections, and answers the requests in flight.
    Those that take longer than `limits.stop_within_s` are cut off. SIGINT, and a second SIGTERM, skip the first part.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        # `service.access` reads forwarded headers; uvicorn would believe those of everybody on this machine.
        config.proxy_headers = False
        if config.timeout_graceful_shutdown is None:
            config.timeout_graceful_shutdown = math.ceil(limits.stop_within_s())
        super().__init__(config)
        self._drain_s = limits.drain_s()
        self._drained_at = math.inf

    async def startup(self, sockets: Any = None) -> None:
        """Open the model and listen, then report it."""
        await super().startup(sockets)
        if self.started:
            report_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. Called by a signal."""
        if sig != signal.SIGTERM or stopping.has_begun:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        stopping.has_begun = True
        self._drained_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop listening. Uvicorn asks ten times a second."""
        if stopping.has_begun:
            for connection in list(self.server_state.connections):
                close: Any = getattr(connection, "close_after_answer", None)
                if close is not None:
                    close()
            self.should_exit = self.should_exit or time.monotonic() >= self._drained_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop listening, answer what is in flight, and end."""
        stopping.has_begun = True
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        # Uvicorn would close at once what was accepted a moment ago, before its request is read.
        await asyncio.sleep(READ_WITHIN_S)
        await super().shutdown(sockets)


def stop_with_care() -> None:
    """Make BentoML's worker, which looks uvicorn's server up when it starts it, use `StoppingServer`."""
    setattr(uvicorn, "Server", StoppingServer)  # noqa: B010  # mypy: a class can't be assigned
