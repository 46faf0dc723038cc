"""A memory budget for decoding: each thread reserves what its image can need, and waits until that is free.

A WebP of 40 bytes can need a gigabyte, and many can arrive at once.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import cache
from threading import Condition, Lock
from typing import TYPE_CHECKING

from classifier.hardware import cpu_limit, memory_limit

if TYPE_CHECKING:
    from collections.abc import Iterator


BYTES_PER_CPU = 300_000_000
"""Enough for every CPU to decode a JPEG of 24 megapixels at once."""

LIMITED_PART = 0.4
"""Part of a container's memory that decoding may take: at 512 MiB, a plain photograph of 42 megapixels."""
KEPT_BYTES = 2**30
"""For everything else, Tandem and the model, no more than this is kept of a container's memory."""

# Measured as the process's peak in the costliest case: transparency, 16 bits, CMYK, several scans, an orientation.
_BYTES_PER_PIXEL = {"JPEG": 12, "PNG": 14, "WebP": 20, "BMP": 9}
_BYTES_PER_PLAIN_PIXEL, _BYTES_PER_TURNED_PIXEL = 5, 9
_BYTES_PER_RESIZED_PIXEL = 8  # Pillow resizes along one axis, then along the other.


def bytes_to_decode(format: str, size: tuple[int, int], resized: tuple[int, int]) -> int:
    """Return the most memory, in bytes, that an image of this size needs while it is decoded and resized."""
    return math.prod(size) * _BYTES_PER_PIXEL[format] + math.prod(resized) * _BYTES_PER_RESIZED_PIXEL


def bytes_to_decode_plain(size: tuple[int, int], resized: tuple[int, int], *, is_turned: bool) -> int:
    """Return the memory, in bytes, that an opaque 8-bit JPEG, PNG or BMP needs, of one scan and in grey or RGB.

    Args:
        size: width and height as decoded, which `draft` may have reduced.
        resized: width and height between resize and crop.
        is_turned: whether the image is stored turned or mirrored.
    """
    per_pixel = _BYTES_PER_TURNED_PIXEL if is_turned else _BYTES_PER_PLAIN_PIXEL
    return math.prod(size) * per_pixel + math.prod(resized) * _BYTES_PER_RESIZED_PIXEL


@cache
def decoding_memory(least: int) -> MemoryBudget:
    """Return this process's budget: `BYTES_PER_CPU` for each CPU that it may use, at least `least` bytes.

    In a container with a limit on memory, it is at most `LIMITED_PART` of that limit, or all of it but `KEPT_BYTES`.
    """
    size, limit = max(least, cpu_limit() * BYTES_PER_CPU), memory_limit()
    if limit is not None:
        size = min(size, max(int(LIMITED_PART * limit), limit - KEPT_BYTES))
    return MemoryBudget(size)


class MemoryBudget:
    """A number of bytes that threads share.

    Attributes:
        size: the number.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._room = Condition()
        self._turn = Lock()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free and hold them for the block; more than the budget runs alone."""
        # First come, first served: else a large image would wait for as long as small ones keep coming.
        with self._turn, self._room:
            self._room.wait_for(lambda: self._taken == 0 or self._taken + size <= self.size)
            self._taken += size
        try:
            yield
        finally:
            with self._room:
                self._taken -= size
                self._room.notify()
