"""What is done to training images so that a network doesn't learn them by heart. Validation images stay as they are."""

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
"""Up to this crop size images are shifted, turned and scaled a little; larger ones are cropped at random."""

_MAX_SHIFT = 0.08
_MAX_TURN = math.radians(10)
_SCALES = (0.9, 1.1)
_CROP_AREA = (0.25, 1.0)
_CROP_ROOM = 1.4


class ImageTransform(Protocol):
    """Changes one image: uint8 `[H, W, 3]` and a seed in, uint8 `[H', W', 3]` out."""

    def __call__(self, image_hwc: torch.Tensor, seed: int) -> torch.Tensor:
        """Return the changed image; the same seed gives the same image."""


class RandomCrop:
    """Crops a part of random size, place and aspect ratio, resized to `size`, and mirrors half of the images."""

    def __init__(self, size: int, *, flip: bool) -> None:
        v2 = import_torchvision().transforms.v2
        crop = v2.RandomResizedCrop(size, scale=_CROP_AREA, antialias=True)
        self._transform = v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop

    def __call__(self, image_hwc: torch.Tensor, seed: int) -> torch.Tensor:
        """Return uint8 `[size, size, 3]`."""
        # torchvision draws from torch's one generator, which must not depend on who reads an image: this process
        # or one of N workers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed: torch.Tensor = self._transform(image_hwc.permute(2, 0, 1))
        return changed.permute(1, 2, 0)


def shift_turn_scale(images: torch.Tensor, *, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Return normalised images `[N, 3, H, W]`, each moved, turned, scaled and, with `flip`, mirrored at random.

    A whole batch at once: one image of 28 pixels takes a hundredth of the time that a transform of its own needs.
    """
    count = images.shape[0]

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    turn, scale = uniform(-_MAX_TURN, _MAX_TURN), uniform(*_SCALES)
    mirror = torch.where(uniform(-1, 1) < 0, -1.0, 1.0) if flip else torch.ones(count)
    # Rows of the 2 x 3 matrices that map each output position to the input's, both in -1…1.
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    shift_x, shift_y = uniform(-2 * _MAX_SHIFT, 2 * _MAX_SHIFT), uniform(-2 * _MAX_SHIFT, 2 * _MAX_SHIFT)
    rows = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1)
    grid = functional.affine_grid(rows.view(count, 2, 3).to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def training_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """Return how a training image is decoded before augmentation: larger than the network's input, if it is cropped."""
    if preprocessing.crop_size <= SMALL_IMAGE_SIZE:
        return preprocessing
    # Crops are taken from the square that validation would see the middle of, at a resolution at which the usual
    # crop is about as large as the network's input.
    size = min(4096, round(preprocessing.crop_size * _CROP_ROOM))
    return replace(preprocessing, resize_size=size, crop_size=size)
