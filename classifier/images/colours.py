"""Colours: every pixel type that a file may have → 8-bit RGB."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

log = logging.getLogger(__name__)

DARK_LEVEL = 2**14
"""A 16-bit image without a level from this one on is at most a quarter as bright as it could be: its data may have 14
bits or fewer."""


def match_transparent_colour(source: ImageFile, *, bit_depth: int) -> None:
    """Scale the transparent colour of an opened PNG to 8 bits, in place.

    A PNG gives its one transparent colour at its own bit depth, but Pillow compares it with 8-bit pixels.
    """
    colour = source.info.get("transparency")
    if source.mode == "L" and isinstance(colour, int) and bit_depth in {2, 4}:
        source.info["transparency"] = colour * 255 // (2**bit_depth - 1)
    elif source.mode == "RGB" and isinstance(colour, tuple) and bit_depth == 16:
        source.info["transparency"] = tuple(level >> 8 for level in colour)


def warn_of_dark_levels(source: ImageFile) -> None:
    """Log, once in a process, that the levels of an opened 16-bit PNG may have fewer bits.

    Microscopes and depth cameras store 10 or 12 bits so. Nothing in the file says it, and a dark image looks the same,
    so the levels are not scaled.
    """
    if source.mode.startswith("I;16"):
        brightest = int(np.asarray(source).max())
    else:  # Pillow keeps the high byte of colours.
        colours = [source.getchannel(band) for band in source.getbands() if band != "A"]
        brightest = max(int(np.asarray(colour).max()) for colour in colours) << 8
    if 0 < brightest < DARK_LEVEL:
        _say_dark()


@cache
def _say_dark() -> None:
    log.warning(
        "A 16-bit PNG image has no level over %s of 65,535, as if its data had fewer bits. Levels are taken as they "
        "are, so it is decoded dark. If it should be brighter, scale its levels to 16 bits, in training too. Further "
        "such images are not mentioned",
        f"{DARK_LEVEL - 1:,}",
    )


def without_unused_alpha(source: ImageFile) -> Image.Image:
    """Return an opened BMP without its alpha if that is 0 everywhere; other images as they are.

    Windows writes such BMPs, for its clipboard too: opaque images whose fourth byte nobody has set.
    """
    if source.format == "BMP" and source.mode == "RGBA" and source.getchannel("A").getextrema() == (0, 0):
        return source.convert("RGB")
    return source


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
