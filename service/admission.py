"""Count what all requests hold, and each client's share of it: places in the queue, and bytes of bodies.

A client is a source as in `service.exchange.Exchange`: a key, or a network address.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.errors import ImageTooLarge
from service import limits
from service.limits import Overloaded, OverShare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Admission:
    """Counts the requests in flight: those whose images are waiting or being classified."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._of: Counter[str] = Counter()

    def check(self, source: str) -> None:
        """Check that there is room for a request of a client. Before its body is read, and again after.

        Raises:
            Overloaded: too many are in flight.
            OverShare: too many of them are this client's.
        """
        if self.in_flight >= limits.MAX_IN_FLIGHT:
            raise Overloaded("too many requests are waiting; try again")
        if self._of[source] >= max(1, int(limits.CLIENT_SHARE * limits.MAX_IN_FLIGHT)):
            raise OverShare("too many requests of yours are waiting; send fewer at the same time")

    @contextmanager
    def request(self, source: str) -> Iterator[None]:
        """Count a request of a client for as long as the block runs. Raises as `check`."""
        self.check(source)
        self.in_flight += 1
        self._of[source] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            _release(self._of, source, 1)


class Buffer:
    """Counts the bytes of all bodies that the service holds, up to `size`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = 0
        self._of: Counter[str] = Counter()

    @contextmanager
    def body(self, source: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves a number of bytes for one body; release them all at the end of the block.

        Raises:
            Overloaded: from that function, if the bytes of all bodies would be over the size.
            OverShare: from that function, if those of this client's bodies would be over its share. One body alone
                never is.
            ImageTooLarge: from that function, if those of this body alone are over the size.
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
            if (others := self._of[source] - held) and others + held + size > limits.CLIENT_SHARE * self.size:
                raise OverShare("the images that you are sending take too much memory; send fewer at the same time")
            self._held += size
            self._of[source] += size
            held += size

        try:
            yield reserve
        finally:
            self._held -= held
            _release(self._of, source, held)


def _release(counter: Counter[str], source: str, count: int) -> None:
    """Take back `count`. A client that holds nothing is forgotten, so the table is as small as what is held."""
    counter[source] -= count
    if not counter[source]:
        del counter[source]
