"""Random changes to training images, so that a network doesn't memorise them. Validation images are never changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from training.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    from classifier.types import Preprocessing

SMALL_IMAGE_SIZE = 64
"""Images up to this crop size are shifted, rotated and scaled a little; larger ones are cropped at random."""

_MAX_SHIFT = 0.08
_MAX_ROTATION = math.radians(10)
_SCALES = (0.9, 1.1)
_CROP_AREA = (0.25, 1.0)
_CROP_MARGIN = 1.4
_MAX_SIZE = 4096  # of a `Preprocessing`


class ImageTransform(Protocol):
    """Changes one image: takes uint8 `[H, W, 3]` and a seed, returns uint8 `[size, size, 3]`."""

    size: int

    def __call__(self, image_hwc: torch.Tensor, seed: int) -> torch.Tensor:
        """Return the changed image; the same seed gives the same image."""


class RandomCrop:
    """Crops a part of random size, position and aspect ratio, resizes it to `size`, and mirrors half of the images."""

    def __init__(self, size: int, *, flip: bool) -> None:
        self.size = size
        v2 = import_torchvision().transforms.v2
        crop = v2.RandomResizedCrop(size, scale=_CROP_AREA, antialias=True)
        self._transform = v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop

    def __call__(self, image_hwc: torch.Tensor, seed: int) -> torch.Tensor:
        """Return uint8 `[size, size, 3]`."""
        # torchvision uses torch's global generator. Seed it for each image, so that the number of workers changes
        # nothing.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed: torch.Tensor = self._transform(image_hwc.permute(2, 0, 1))
        return changed.permute(1, 2, 0)


def shift_rotate_scale(images: torch.Tensor, *, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Return normalised images `[N, 3, H, W]`, each shifted, rotated, scaled and, with `flip`, mirrored at random.

    Works on a whole batch: for images of 28 pixels, this takes a hundredth of the time of one transform per image.
    """
    count = images.shape[0]

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle, scale = uniform(-_MAX_ROTATION, _MAX_ROTATION), uniform(*_SCALES)
    mirror = torch.where(uniform(-1, 1) < 0, -1.0, 1.0) if flip else torch.ones(count)
    # Rows of the 2 × 3 matrices that map output positions to input positions; both range from -1 to 1.
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift_x, shift_y = uniform(-2 * _MAX_SHIFT, 2 * _MAX_SHIFT), uniform(-2 * _MAX_SHIFT, 2 * _MAX_SHIFT)
    rows = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1)
    grid = functional.affine_grid(rows.view(count, 2, 3).to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def training_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """Return how to decode training images: larger than the network's input if they will be cropped at random."""
    if preprocessing.crop_size <= SMALL_IMAGE_SIZE:
        return preprocessing
    # Random crops come from the same centre square as validation's crop, at a resolution that makes the typical crop
    # about as large as the network's input.
    size = min(_MAX_SIZE, round(preprocessing.crop_size * _CROP_MARGIN))
    return replace(preprocessing, resize_size=size, crop_size=size)
