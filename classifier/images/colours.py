"""Colours: whatever a file holds becomes 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


def match_transparent_colour(source: ImageFile, *, bit_depth: int) -> None:
    """Bring the transparent colour of an opened PNG to the 8 bits of its pixels."""
    # A PNG names its one transparent colour at its own bit depth, and Pillow compares it with pixels of 8 bits.
    colour = source.info.get("transparency")
    if source.mode == "L" and isinstance(colour, int) and bit_depth in {2, 4}:
        source.info["transparency"] = colour * 255 // (2**bit_depth - 1)
    elif source.mode == "RGB" and isinstance(colour, tuple) and bit_depth == 16:
        source.info["transparency"] = tuple(level >> 8 for level in colour)


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return the image in 8-bit RGB, its transparent pixels laid over `background`."""
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
    # Pillow's own conversion clips at 255. The high byte is what it keeps of 16-bit colours.
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
