"""Resize and crop, with the sizes that torchvision's `transforms.v2.Resize` and `CenterCrop` round to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Return the width and height of an image whose shorter side is resized to `shorter`, its aspect kept."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the central `size` × `size` pixels."""
    # Python's round, half to even, as torchvision has it.
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))
