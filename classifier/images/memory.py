"""The memory in which the threads of a process decode: each takes what its image can need, and waits for it."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import cache
from threading import Condition, Lock
from typing import TYPE_CHECKING

from classifier.hardware import cpu_limit

if TYPE_CHECKING:
    from collections.abc import Iterator


BYTES_OF_A_CPU = 300_000_000
"""Enough for each CPU to decode a JPEG of 24 megapixels at the same time as the others."""

# Measured as the process's peak, with what costs most: transparency, 16 bits, CMYK, several scans, an orientation.
_BYTES_PER_PIXEL = {"JPEG": 12, "PNG": 14, "WebP": 20, "BMP": 9}
_BYTES_PER_RESIZED_PIXEL = 8  # Pillow resizes along one axis, then along the other.


def bytes_to_decode(format: str, size: tuple[int, int], resized: tuple[int, int]) -> int:
    """Return how much memory an image of this size takes at most while it is decoded and resized."""
    return math.prod(size) * _BYTES_PER_PIXEL[format] + math.prod(resized) * _BYTES_PER_RESIZED_PIXEL


@cache
def decoding_memory(least: int) -> MemoryBudget:
    """Return the budget of this process, `BYTES_OF_A_CPU` for each that it may keep busy, and not below `least`."""
    return MemoryBudget(max(least, cpu_limit() * BYTES_OF_A_CPU))


class MemoryBudget:
    """So many bytes for all threads together."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._room = Condition()
        self._turn = Lock()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait for `size` bytes, and give them back at the end of the block. More than there are is taken alone."""
        # In the order of asking: or one that needs much would wait for as long as others come who need little.
        with self._turn, self._room:
            self._room.wait_for(lambda: self._taken == 0 or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._room:
                self._taken -= size
                self._room.notify()
