"""Limits: what one image may cost in bytes, pixels and memory."""

from __future__ import annotations

from dataclasses import dataclass

from classifier.errors import ImageTooLarge
from classifier.images.memory import bytes_to_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: of the file.
        max_side: of width and of height, in pixels: what a JPEG can have.
        max_pixels: width × height.
        max_resized_pixels: width × height between resize and crop. It refuses the long and thin: an image of
            10 × 63,498 pixels would become 256 × 1,625,548.
        max_memory: of decoding and resizing, in bytes, as much as its format can need: 14 bytes for each pixel of a
            PNG, 12 of a JPEG, 9 of a BMP, 20 of a WebP, of which 75 megapixels are therefore the most.
    """

    max_bytes: int = 64 * 2**20
    max_side: int = 65_535
    max_pixels: int = 100_000_000
    max_resized_pixels: int = 64_000_000
    max_memory: int = 1_500_000_000


LIMITS = Limits()


def check_limits(format: str, size: tuple[int, int], resized: tuple[int, int], limits: Limits) -> None:
    """Check that an image may be decoded.

    Args:
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
        size: width and height, upright.
        resized: width and height between resize and crop.
        limits: what it may cost.

    Raises:
        ImageTooLarge: it is over one of them.
    """
    image = f"the {format} image of {size[0]:,} × {size[1]:,} pixels"
    if max(size) > limits.max_side:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_side:,} on a side: shrink it")
    if size[0] * size[1] > limits.max_pixels:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_pixels:,} pixels: shrink it")
    if resized[0] * resized[1] > limits.max_resized_pixels:
        raise ImageTooLarge(
            f"{image} is too long and thin, {resized[0]:,} × {resized[1]:,} when resized for the model, "
            f"over the limit of {limits.max_resized_pixels:,} pixels: crop it"
        )
    if (memory := bytes_to_decode(format, size, resized)) > limits.max_memory:
        raise ImageTooLarge(
            f"{image} can take {memory:,} bytes of memory, over the limit of {limits.max_memory:,}: shrink it"
        )


def too_many_bytes(what: str, size: int, limits: Limits) -> ImageTooLarge:
    """Return the error for a file of `size` bytes, which is over the limit."""
    return ImageTooLarge(f"{what} has {size:,} bytes, over the limit of {limits.max_bytes:,}: encode it smaller")
