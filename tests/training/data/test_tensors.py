from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from classifier.errors import DataError
from classifier.images import decode_image, read_image
from classifier.types import Preprocessing
from export.graphs.graph import EndToEnd
from training.data import tensors
from training.data.folders import open_folders
from training.data.loading import load_batches
from training.data.tensors import Batch, ImageSet, draw_batches, in_order, normalise, read_images

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESSING = Preprocessing(resize_size=8, crop_size=8)
LARGE = Preprocessing(resize_size=80, crop_size=72)


def load(images: ImageSet, *, seed: int = 0, workers: int = 0) -> list[Batch]:
    draws = draw_batches(len(images), batch_size=7, generator=torch.Generator().manual_seed(seed))
    return list(load_batches(images, draws, workers=workers, pin=False))


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )  # fmt: skip


def no_bar(images: int) -> None:
    pass


def test_normalise_equals_the_graph() -> None:
    """A network is trained on exactly the numbers that the exported graph computes."""
    images = torch.randint(256, (3, 8, 8, 3), dtype=torch.uint8)
    trained_on = normalise(images, PREPROCESSING).flatten(1)
    assert torch.equal(EndToEnd(nn.Flatten(), PREPROCESSING)(images)[0], trained_on)


@pytest.mark.parametrize("in_memory", [True, False])
def test_validation_images_equal_production(few_digits: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation uses the pixels of `decode_image`, whether kept in memory or decoded again."""
    monkeypatch.setattr(tensors, "MAX_BYTES_IN_MEMORY", 1 << 30 if in_memory else 0)
    folders = open_folders(few_digits, val_fraction=None, seed=0)
    _, val = read_images(folders, LARGE, flip=True, advance=no_bar)
    batches = list(load_batches(val, in_order(len(val), batch_size=5), workers=0, pin=False))
    pixels = torch.cat([images for images, _ in batches])
    for index, sample in enumerate(folders.val):
        expected = decode_image(read_image(sample.path), LARGE).pixels
        assert torch.equal(pixels[index], torch.from_numpy(expected))
    assert torch.cat([labels for _, labels in batches]).tolist() == [sample.label for sample in folders.val]


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, LARGE])
def test_batches_do_not_depend_on_how_they_are_loaded(
    few_digits: Path, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory, from files, or by workers: the same seed gives the same batches, including augmentation."""
    folders = open_folders(few_digits, val_fraction=None, seed=0)
    kept, _ = read_images(folders, preprocessing, flip=True, advance=no_bar)
    monkeypatch.setattr(tensors, "MAX_BYTES_IN_MEMORY", 0)
    read, _ = read_images(folders, preprocessing, flip=True, advance=no_bar)
    batches = load(kept)
    assert batches[0][0].shape == (7, preprocessing.crop_size, preprocessing.crop_size, 3)
    assert equal(batches, load(read))
    assert equal(batches, load(read, workers=2))
    assert not equal(batches, load(kept, seed=1))


def test_loading_leaves_torchs_generator_alone(few_digits: Path) -> None:
    """Augmentation doesn't use the generator that dropout uses; otherwise workers would change the weights."""
    folders = open_folders(few_digits, val_fraction=None, seed=0)
    images, _ = read_images(folders, LARGE, flip=True, advance=no_bar)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load(images)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_vanishes_during_training(my_digits: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """The error names it in one sentence, even if a worker process found it missing."""
    monkeypatch.setattr(tensors, "MAX_BYTES_IN_MEMORY", 0)
    folders = open_folders(my_digits, val_fraction=None, seed=0)
    train, _ = read_images(folders, PREPROCESSING, flip=False, advance=no_bar)
    for sample in folders.train:
        sample.path.unlink()
    with pytest.raises(
        DataError, match=r"^7 images can't be read: .*\.png' does not exist.* and 2 more, all listed above; repair"
    ):
        load(train, workers=workers)


@given(images=st.integers(2, 200), batch_size=st.integers(2, 50), seed=st.integers(0, 2**32))
def test_draw_batches(images: int, batch_size: int, seed: int) -> None:
    """No image occurs twice, all batches are complete, and less than one batch is left out."""
    draws = draw_batches(images, batch_size=batch_size, generator=torch.Generator().manual_seed(seed))
    indices = [index for draw in draws for index, _ in draw]
    assert len(set(indices)) == len(indices) > images - batch_size
    assert {len(draw) for draw in draws} == {min(batch_size, images)}
    assert set(indices) <= set(range(images))


@given(images=st.integers(1, 200), batch_size=st.integers(1, 50))
def test_in_order(images: int, batch_size: int) -> None:
    """Validation sees every image once."""
    assert [index for draw in in_order(images, batch_size=batch_size) for index, _ in draw] == list(range(images))
