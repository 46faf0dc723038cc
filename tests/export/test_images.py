from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.errors import DataError
from classifier.images import decode_image
from export import images as images_module
from export.images import BATCH_SIZE, LabelledImages
from tests.export.colours import PREPROCESSING

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_images_come_in_order_with_their_labels_each_time(
    samples: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Kept in memory or decoded again, they have the pixels of production."""
    monkeypatch.setattr(images_module, "MAX_BYTES_IN_MEMORY", limit)
    images = LabelledImages(samples, PREPROCESSING)
    next(images.batches())  # stopping after the first batch must not shift later passes
    first, second = (list(images.batches()) for _ in range(2))
    assert [len(files) for files, _ in first] == [BATCH_SIZE, len(samples) - BATCH_SIZE]
    assert [file for files, _ in second for file in files] == [file for file, _ in samples]
    assert images.truth.tolist() == [label for _, label in samples]
    for all_images in (first, second):
        pixels = np.concatenate([images_nhwc for _, images_nhwc in all_images])
        for (file, _), got in zip(samples, pixels, strict=True):
            np.testing.assert_array_equal(got, decode_image(file.read_bytes(), PREPROCESSING).pixels)
    for index in (0, BATCH_SIZE, len(samples) - 1):
        np.testing.assert_array_equal(images.pixels(index), pixels[index])


def test_images_that_fit_in_memory_are_decoded_once(samples: list[tuple[Path, int]], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(samples[0][0].read_bytes())
    images = LabelledImages([(copy, 0)], PREPROCESSING)
    (before,) = images.batches()
    copy.unlink()
    (after,) = images.batches()
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("damage", ["missing", "text", "empty"])
def test_a_missing_or_broken_image_is_named(samples: list[tuple[Path, int]], tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad.png"
    if damage != "missing":
        bad.write_bytes(b"" if damage == "empty" else b"not an image at all")
    with pytest.raises(DataError, match=r"bad\.png can't be used .*restore it"):
        list(LabelledImages([*samples, (bad, 0)], PREPROCESSING).batches())
