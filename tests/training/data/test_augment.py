from __future__ import annotations

import torch

from classifier.types import Preprocessing
from training.data.augment import RandomCrop, shift_rotate_scale, training_preprocessing

BRIGHTER_TO_THE_RIGHT = torch.linspace(0, 1, 16).expand(200, 3, 16, 16)


def brighter_to_the_right(images: torch.Tensor) -> torch.Tensor:
    return images[..., 8:].mean((1, 2, 3)) > images[..., :8].mean((1, 2, 3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_small_images_are_not_mirrored() -> None:
    """Left stays left: a mirrored 3 is not a 3."""
    changed = shift_rotate_scale(BRIGHTER_TO_THE_RIGHT, flip=False, generator=generator())
    assert brighter_to_the_right(changed).all()


def test_small_images_are_mirrored_on_request() -> None:
    """About half of them are."""
    changed = shift_rotate_scale(BRIGHTER_TO_THE_RIGHT, flip=True, generator=generator())
    assert 70 < brighter_to_the_right(changed).sum() < 130


def test_every_small_image_changes_differently() -> None:
    """Each image of a batch is changed differently and only a little; the same seed gives the same changes."""
    images = torch.rand(1, 3, 16, 16).expand(8, 3, 16, 16)
    changed = shift_rotate_scale(images, flip=False, generator=generator())
    assert len({image.numpy().tobytes() for image in changed}) == 8
    assert torch.equal(changed, shift_rotate_scale(images, flip=False, generator=generator()))
    blob = torch.zeros(100, 3, 16, 16)
    blob[..., 6:10, 6:10] = 1
    moved = shift_rotate_scale(blob, flip=False, generator=generator())
    assert moved[..., 3:13, 3:13].sum() > 0.99 * moved.sum()


def test_crops_depend_on_their_seed_alone() -> None:
    """The same seed gives the same crop, whatever the state of torch's generator."""
    crop = RandomCrop(8, flip=True)
    image = torch.randint(256, (20, 20, 3), dtype=torch.uint8)
    crops = {crop(image, seed).numpy().tobytes() for seed in range(8)}
    torch.rand(5)
    assert crops == {crop(image, seed).numpy().tobytes() for seed in range(8)}
    assert len(crops) == 8
    assert crop(image, 0).shape == (8, 8, 3)


def test_small_images_train_at_the_validation_size() -> None:
    """Only large images are decoded with a margin for random crops."""
    small = Preprocessing(resize_size=28, crop_size=28)
    assert training_preprocessing(small) == small
    large = training_preprocessing(Preprocessing(resize_size=256, crop_size=224))
    assert large.crop_size == large.resize_size == 314
