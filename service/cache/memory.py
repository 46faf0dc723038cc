"""The level of this process: the results that were used last, within a number of bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict

ENTRY_BYTES = 160
"""What an entry takes beside its key and its value: tables, links and the allocator's rounding. Measured: 75–134."""


class MemoryCache:
    """Maps keys to values and forgets those that were used longest ago. For one thread.

    Attributes:
        max_bytes: what keys, values and tables may take together.
        held_bytes: what they take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, now the one that was used last; None if there is none."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, if it fits at all, and forget as many others as its bytes need."""
        size = size_of(key, value)
        if size > self.max_bytes:
            return
        if (replaced := self._values.pop(key, None)) is not None:
            self.held_bytes -= size_of(key, replaced)
        while self.held_bytes + size > self.max_bytes:
            oldest, forgotten = self._values.popitem(last=False)
            self.held_bytes -= size_of(oldest, forgotten)
        self._values[key] = value
        self.held_bytes += size


def size_of(key: bytes, value: bytes) -> int:
    """Return how many bytes of memory an entry takes."""
    return sys.getsizeof(key) + sys.getsizeof(value) + ENTRY_BYTES
