"""Colours: every pixel type that a file may have → 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def match_transparent_colour(source: ImageFile, *, bit_depth: int) -> None:
    """Scale the transparent colour of an opened PNG to 8 bits, in place.

    A PNG gives its one transparent colour at its own bit depth, but Pillow compares it with 8-bit pixels.
    """
    colour = source.info.get("transparency")
    if source.mode == "L" and isinstance(colour, int) and bit_depth in {2, 4}:
        source.info["transparency"] = colour * 255 // (2**bit_depth - 1)
    elif source.mode == "RGB" and isinstance(colour, tuple) and bit_depth == 16:
        source.info["transparency"] = tuple(level >> 8 for level in colour)


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return the image in 8-bit RGB, with transparent pixels laid over `background`."""
    if image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image)
        return canvas
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips 16-bit grey at 255. Of 16-bit colours it keeps the high byte: so does this.
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
