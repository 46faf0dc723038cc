"""Every limit of the service: connections, heads, bodies, buffered bytes, requests in flight, and waiting times."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.errors import ImageTooLarge
from classifier.images import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CONNECTIONS = 1000
"""Open connections of a worker. One more ends the one that owes its request and was silent longest."""
MAX_HEAD_BYTES = 64 * 2**10
"""A request line with its headers, or what stands between the bytes of a chunked body."""
MAX_PIPELINED = 16
"""Requests that a client sends before it has the answer to the first."""
HEAD_WITHIN_S = 20
"""Time to receive a request line with its headers."""
ANSWER_WITHIN_S = 150
"""Time from a complete request until the client has taken its answer; longer than the limits below."""
SLACK_S = 5
"""What `service.edge.connections` gives in addition, so that `service.edge.classify` refuses a slow body first."""

MAX_BODY_BYTES = LIMITS.max_bytes + 64 * 2**10
"""One body: an image, plus the boundaries and headers of a multipart form."""
MAX_BUFFERED_BYTES = 512 * 2**20
"""All bodies that are being received, waiting or being classified; less in a container of little memory."""
BUFFERED_PART = 1 / 8
"""Part of a container's memory that bodies may take. The images in them take more once they are decoded."""
MAX_IN_FLIGHT = 128
"""Requests whose image is waiting or being classified. Refuse the next one: a longer queue only means longer waits."""
BODY_WITHIN_S = 60
"""Time to receive a body. A request that is still sending does not count as in flight; only its bytes count."""
START_WITHIN_S = 20
"""Time from a complete body to the start of its classification."""
MAX_FEEDBACK_BYTES = 16 * 2**10
"""The body of `POST /feedback`."""
MAX_IMAGES = 128
"""Images of one request."""
LOG_WITHIN_S = 5
"""Time to write what waits for the prediction log when the service ends."""
BATCH_WITHIN_S = 100
"""Time for all images of one request."""
RETRY_AFTER_S = 1
"""What `Retry-After` tells a client that was refused because of overload."""


def buffered_bytes(memory: int | None) -> int:
    """Return how many bytes of bodies a service may hold, where `memory` is its container's; None if unlimited."""
    return MAX_BUFFERED_BYTES if memory is None else min(MAX_BUFFERED_BYTES, int(BUFFERED_PART * memory))


class Overloaded(Exception):
    """The service has no room for a request. `service.edge.refusals` answers it with 503 and Retry-After."""


class Admission:
    """Counts the requests in flight: those whose images are waiting or being classified."""

    def __init__(self) -> None:
        self.in_flight = 0

    def check(self) -> None:
        """Check that there is room for a request. Before its body is read, and again after.

        Raises:
            Overloaded: too many are in flight.
        """
        if self.in_flight >= MAX_IN_FLIGHT:
            raise Overloaded("too many requests are waiting; try again")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request for as long as the block runs.

        Raises:
            Overloaded: too many are in flight.
        """
        self.check()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class Buffer:
    """Counts the bytes of all bodies that the service holds, up to `size`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves a number of bytes for one body; release them all at the end of the block.

        Raises:
            Overloaded: from that function, if the bytes of all bodies would be over the size.
            ImageTooLarge: from that function, if those of this body alone are.
        """
        held = 0

        def reserve(size: int) -> None:
            nonlocal held
            if held + size > self.size:
                raise ImageTooLarge(
                    f"this service's memory leaves {self.size:,} bytes for images: send a smaller one, or give it more"
                )
            if self._held + size > self.size:
                raise Overloaded("the images that others are sending fill the service's memory; try again")
            self._held += size
            held += size

        try:
            yield reserve
        finally:
            self._held -= held
