from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier.golden import GoldenSet
from classifier.types import Preprocessing
from export.golden import MAX_IMAGES, choose, make_golden_set
from export.images import LabelledImages

if TYPE_CHECKING:
    from pathlib import Path


PREPROCESSING = Preprocessing(resize_size=8, crop_size=8)


def even_scores(images: int, classes: int) -> np.ndarray:
    return np.tile(np.linspace(0.4, 0.6, classes, dtype=np.float32), (images, 1))


def test_with_few_labels_each_occurs_equally_often() -> None:
    truth = np.arange(100) % 4
    chosen = choose([1000] * 100, truth, even_scores(100, 4))
    assert len(chosen) == MAX_IMAGES
    assert np.bincount(truth[chosen]).tolist() == [4, 4, 4, 4]


def test_with_many_labels_only_the_least_certain_image_can_repeat_a_label() -> None:
    truth = np.arange(200) % 50
    chosen = choose(list(range(200)), truth, even_scores(200, 50))
    assert len(set(truth[chosen].tolist())) >= MAX_IMAGES - 1


def test_the_least_certain_image_is_chosen() -> None:
    """Rounding in another kernel changes its scores most."""
    scores = even_scores(100, 3)
    scores[37] = (0.34, 0.33, 0.33)
    assert 37 in choose(list(range(100)), np.arange(100) % 3, scores)


def test_small_files_are_chosen_and_huge_ones_are_not() -> None:
    """An artifact is copied often, and a 20 MB photograph proves no more than a small one."""
    sizes = [1000 + index for index in range(60)]
    scores = even_scores(60, 3)
    sizes[11] = 20_000_000
    scores[11] = (0.34, 0.33, 0.33)
    chosen = choose(sizes, np.arange(60) % 3, scores)
    assert 11 not in chosen
    assert max(sizes[index] for index in chosen) < 1100


def test_all_of_them_fit_into_an_artifact() -> None:
    """Photographs of 20 MB each make a smaller set, which the registry takes."""
    chosen = choose([20_000_000] * 30, np.arange(30) % 3, even_scores(30, 3))
    assert len(chosen) == 6
    assert choose([2**29], np.array([0]), even_scores(1, 2)) == [0]


def test_fewer_images_than_the_limit_are_all_chosen() -> None:
    assert choose([10, 20, 30], np.array([0, 1, 0]), even_scores(3, 2)) == [0, 1, 2]


def test_golden_images_are_the_encoded_files_with_torchs_scores(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        file.write_bytes(bytes([index]) * (index + 1))
    images = LabelledImages([(file, index % 2) for index, file in enumerate(files)], PREPROCESSING)
    reference = even_scores(3, 2)
    golden = make_golden_set(images, reference, tolerances={"fp32": 1e-4, "int8": 0.02})
    assert golden.images == (b"\0", b"\1\1", b"\2\2\2")
    assert golden.tolerances == {"fp32": 1e-4, "int8": 0.02}
    np.testing.assert_array_equal(golden.scores, reference)
    assert GoldenSet.from_bytes(golden.to_bytes()).images == golden.images
