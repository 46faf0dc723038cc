from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from training.config import choose_config
from training.data.folders import open_folders
from training.options import TrainingOptions

if TYPE_CHECKING:
    from pathlib import Path

    from training.config import TrainingConfig


def config_for(root: Path, width: int, height: int, **options: object) -> TrainingConfig:
    """Return the config chosen for a data set with images of this size."""
    for label in ("cat", "dog"):
        for split in ("train", "val"):
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (width, height)).save(root / split / label / "image.png")
    folders = open_folders(root, val_fraction=None, seed=0)
    return choose_config(folders, TrainingOptions(device="cpu", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "sizes"),
    [
        (4, 6, (8, 8)),
        (28, 40, (28, 28)),
        (64, 64, (64, 64)),
        (65, 90, (64, 64)),
        (150, 100, (110, 96)),
        (900, 600, (256, 224)),
    ],
)
def test_input_size_suits_the_images(tmp_path: Path, width: int, height: int, sizes: tuple[int, int]) -> None:
    """It is the shorter side; for large images a multiple of 32, at most 224, cropped from a larger image."""
    chosen = config_for(tmp_path, width, height).preprocessing
    assert (chosen.resize_size, chosen.crop_size) == sizes


def test_small_and_large_images_get_their_own_defaults(tmp_path: Path) -> None:
    """Small images get the small CNN without mirroring; large ones get resnet18 with it."""
    small, large = config_for(tmp_path / "small", 28, 28), config_for(tmp_path / "large", 300, 300)
    assert (small.architecture, small.flip, small.lr) == ("small_cnn", False, 2e-3)
    assert (large.architecture, large.flip, large.lr) == ("resnet18", True, 2e-3)


def test_pretrained_weights_decide_the_rest(tmp_path: Path) -> None:
    """They bring their preprocessing, an architecture and a lower learning rate, even for small images."""
    own = config_for(tmp_path / "own", 28, 28, weights="DEFAULT")
    assert (own.architecture, own.lr, own.preprocessing.crop_size) == ("resnet18", 3e-4, 224)
    given = config_for(tmp_path / "given", 28, 28, weights="DEFAULT", image_size=32, lr=0.1, decode="scaled", flip=True)
    assert (given.lr, given.flip) == (0.1, True)
    assert (given.preprocessing.crop_size, given.preprocessing.mean) == (32, own.preprocessing.mean)
    assert given.preprocessing.decode == "scaled"
