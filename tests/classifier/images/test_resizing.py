"""Resize and crop give torchvision's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from classifier.images import decode_image
from classifier.types import Interpolation, Preprocessing
from tests.classifier.images.samples import PHOTO, SMALL, encode, photo


class TestResize:
    @pytest.mark.parametrize(
        ("width", "height", "resize_size", "crop_size"),
        [
            *[(500, 375, 256, 224), (375, 500, 256, 224), (100, 100, 256, 224), (28, 28, 28, 28), (257, 256, 256, 224)],
            *[
                (1, 1, 64, 56),
                (3, 200, 32, 31),
                (200, 3, 32, 31),
                (640, 427, 232, 224),
                (33, 77, 40, 33),
                (640, 427, 33, 32),
            ],
        ],
    )
    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
    def test_equal_to_torchvision(
        self, width: int, height: int, resize_size: int, crop_size: int, interpolation: Interpolation
    ) -> None:
        """Resize and crop give the pixels of torchvision's transforms on PIL images, bit for bit."""
        pytest.importorskip("torch")
        pytest.importorskip("training")
        from training.torchvision_compat import import_torchvision

        v2 = import_torchvision().transforms.v2
        image = photo(width, height)
        mode = v2.InterpolationMode(interpolation)
        expected = v2.Compose([v2.Resize(resize_size, mode), v2.CenterCrop(crop_size)])(image)
        preprocessing = Preprocessing(resize_size=resize_size, crop_size=crop_size, interpolation=interpolation)
        assert (decode_image(encode(image, "PNG"), preprocessing).pixels == np.asarray(expected)).all()

    @pytest.mark.parametrize(
        ("width", "height", "resized", "left", "top"),
        [
            (500, 375, (341, 256), 58, 16),  # 58.5 goes to the even side
            (375, 500, (256, 341), 16, 58),
            (400, 267, (383, 256), 80, 16),  # 383.5 is cut; 79.5 goes to the even side
            (267, 400, (256, 383), 16, 80),
            (256, 256, (256, 256), 16, 16),
        ],
    )
    def test_rounding(self, width: int, height: int, resized: tuple[int, int], left: int, top: int) -> None:
        """The longer side is cut to whole pixels, and the crop's halves round to even, as in torchvision."""
        image = photo(width, height)
        whole = image.resize(resized, Image.Resampling.BILINEAR)
        expected = np.asarray(whole)[top : top + 224, left : left + 224]
        assert (decode_image(encode(image, "BMP"), PHOTO).pixels == expected).all()

    def test_antialiased(self) -> None:
        """A fine chequerboard becomes grey when shrunk, not black and white dots."""
        board = Image.fromarray((np.indices((560, 560)).sum(axis=0) % 2 * 255).astype(np.uint8))
        pixels = decode_image(encode(board, "PNG"), SMALL).pixels
        assert np.abs(pixels.astype(int) - 127).max() <= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 3)])
    def test_tiny_and_thin(self, size: tuple[int, int]) -> None:
        """An image one pixel wide is accepted."""
        decoded = decode_image(encode(Image.new("RGB", size, (9, 8, 7)), "PNG"), PHOTO)
        assert (decoded.width, decoded.height) == size
        assert (decoded.pixels == (9, 8, 7)).all()
