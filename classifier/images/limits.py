"""Limits on one image: bytes, pixels and memory."""

from __future__ import annotations

from dataclasses import dataclass

from classifier.errors import ImageTooLarge
from classifier.images.memory import bytes_to_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one image may cost.

    Attributes:
        max_bytes: size of the file.
        max_side: width or height in pixels; the default is the largest that a JPEG can have.
        max_pixels: width × height.
        max_resized_pixels: width × height between resize and crop. Refuses long, thin images: one of 10 × 63,498
            pixels would become 256 × 1,625,548.
        max_memory: bytes that decoding and resizing can need: 14 per pixel of a PNG, 12 of a JPEG, 9 of a BMP, 20 of a
            WebP. So the default allows a WebP of 75 megapixels.
    """

    max_bytes: int = 64 * 2**20
    max_side: int = 65_535
    max_pixels: int = 100_000_000
    max_resized_pixels: int = 64_000_000
    max_memory: int = 1_500_000_000


LIMITS = Limits()


def check_limits(format: str, size: tuple[int, int], resized: tuple[int, int], limits: Limits) -> None:
    """Check an image's size, as its header gives it, before it is decoded.

    Args:
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
        size: upright width and height.
        resized: width and height between resize and crop.
        limits: the limits to check; `max_bytes` is checked by the caller.

    Raises:
        ImageTooLarge: the image is over a limit.
    """
    image = f"the {format} image of {size[0]:,} × {size[1]:,} pixels"
    if max(size) > limits.max_side:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_side:,} pixels per side: shrink it")
    if size[0] * size[1] > limits.max_pixels:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_pixels:,} pixels: shrink it")
    if resized[0] * resized[1] > limits.max_resized_pixels:
        raise ImageTooLarge(
            f"{image} is too long and thin: resized for the model it would be {resized[0]:,} × {resized[1]:,}, "
            f"over the limit of {limits.max_resized_pixels:,} pixels; crop it"
        )
    if (memory := bytes_to_decode(format, size, resized)) > limits.max_memory:
        raise ImageTooLarge(
            f"{image} can need {memory:,} bytes of memory, over the limit of {limits.max_memory:,}: shrink it"
        )


def too_many_bytes(what: str, size: int, limits: Limits) -> ImageTooLarge:
    """Return the error for a file whose `size` is over `limits.max_bytes`."""
    return ImageTooLarge(f"{what} has {size:,} bytes, over the limit of {limits.max_bytes:,}: shrink or compress it")
