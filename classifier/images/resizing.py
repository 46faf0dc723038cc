"""Resize and crop sizes, rounded as torchvision's `transforms.v2.Resize` and `CenterCrop` round them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Return the width and height after a resize to `shorter` on the shorter side, with the aspect ratio kept."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central `size` × `size` pixels."""
    # Python's round goes half to even, as torchvision's does.
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))
