"""Images as tensors: decoded once or in every epoch, drawn into batches, and normalised."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from classifier.errors import DataError, ImageError
from classifier.hardware import cpu_limit
from classifier.images import decode_image, read_image
from classifier.wording import NAMED_IN_ERRORS, counted, name_some, one_line, utf8_text
from training.data.augment import RandomCrop, training_preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from classifier.progress import Advance
    from classifier.types import Preprocessing
    from training.data.augment import ImageTransform
    from training.data.folders import ImageFolders, Sample

logger = logging.getLogger(__name__)

MAX_BYTES_IN_MEMORY = 1 << 30
"""A data set whose decoded images fit in this is decoded once; a larger one, in every epoch."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 images `[N, H, W, 3]` and int64 labels `[N]`."""

BadImage = tuple[Path, str]
"""An unreadable file, and the reason."""


@dataclass(frozen=True, slots=True)
class BadBatch:
    """The unreadable images of a batch.

    Not an exception, because torch replaces the message of a worker's exception by the worker's traceback.
    """

    images: list[BadImage]


_CHUNK = 64

Draw = list[tuple[int, int]]
"""The images of one batch: for each, its index and the seed for its augmentation."""


def normalise(images_nhwc: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return uint8 images `[N, H, W, 3]` as a network's input: normalised float32 `[N, 3, H, W]`.

    The exported graph does the same operations in the same order.
    """
    device = images_nhwc.device
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return (images_nhwc.permute(0, 3, 1, 2).to(torch.float32) / 255 - mean) / std


class ImageSet(Dataset[Batch | BadBatch]):
    """Labelled images, decoded by `classifier.images` as in production."""

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        *,
        transform: ImageTransform | None = None,
        in_memory: bool,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.transform = transform
        self._labels = torch.tensor([sample.label for sample in samples])
        self._pixels: torch.Tensor | None = None
        if in_memory:
            size = preprocessing.crop_size
            self._pixels = torch.empty(len(samples), size, size, 3, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Batch | BadBatch:
        """Return the images of one batch, or the unreadable ones if there are any."""
        images, bad = [], []
        for index, seed in draw:
            try:
                image = self._decode(index) if self._pixels is None else self._pixels[index]
            except ImageError as error:
                bad.append((self.samples[index].path, str(error)))
            else:
                images.append(image if self.transform is None else self.transform(image, seed))
        if bad:
            return BadBatch(bad)
        return torch.stack(images), self._labels[[index for index, _ in draw]]

    def keep(self, samples: Sequence[Sample]) -> None:
        """Leave out all images but `samples`, which are some of them in the same order."""
        if len(samples) == len(self.samples):
            return
        kept = frozenset(samples)
        indices = [index for index, sample in enumerate(self.samples) if sample in kept]
        self.samples, self._labels = samples, self._labels[indices]
        if self._pixels is not None:
            self._pixels = self._pixels[indices]

    @property
    def image_bytes(self) -> int:
        """The size of an image in a batch."""
        side = self.preprocessing.crop_size if self.transform is None else self.transform.size
        return 3 * side**2

    @property
    def is_quick(self) -> bool:
        """Whether an image is just copied from memory, without decoding or transforming it."""
        return self._pixels is not None and self.transform is None

    def read(self, indices: Iterable[int], *, advance: Advance) -> list[BadImage]:
        """Decode images, keep them if all fit in memory, and return the unreadable ones."""
        bad: list[BadImage] = []
        for index in indices:
            try:
                image = self._decode(index)
            except ImageError as error:
                bad.append((self.samples[index].path, str(error)))
            else:
                if self._pixels is not None:
                    self._pixels[index] = image
            advance(1)
        return bad

    def _decode(self, index: int) -> torch.Tensor:
        data = read_image(self.samples[index].path)
        return torch.from_numpy(decode_image(data, self.preprocessing).pixels)


def read_images(
    folders: ImageFolders, preprocessing: Preprocessing, *, flip: bool, advance: Advance, skip_unreadable: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Return the training images and the validation images, after decoding each of them once.

    That finds unreadable images now, not hours later in the middle of an epoch. Images that fit in memory are not
    decoded again.

    Args:
        folders: the images.
        preprocessing: how to decode them.
        flip: whether training images are mirrored at random.
        advance: is told how many images were read.
        skip_unreadable: leave out the unreadable images; the log names each.

    Raises:
        DataError: some images are unreadable; the message counts them and names the first few, the log names the rest.
            With `skip_unreadable`: too few images are left.
    """
    training = training_preprocessing(preprocessing)
    pixels = len(folders.train) * training.crop_size**2 + len(folders.val) * preprocessing.crop_size**2
    in_memory = 3 * pixels <= MAX_BYTES_IN_MEMORY
    transform = None if training == preprocessing else RandomCrop(preprocessing.crop_size, flip=flip)
    train = ImageSet(folders.train, training, transform=transform, in_memory=in_memory)
    val = ImageSet(folders.val, preprocessing, transform=None, in_memory=in_memory)
    bad: list[BadImage] = []
    for images in (train, val):
        chunks = [range(start, min(start + _CHUNK, len(images))) for start in range(0, len(images), _CHUNK)]
        # Threads are enough, because the codecs release the GIL.
        with ThreadPoolExecutor(max_workers=cpu_limit()) as pool:
            for found in pool.map(partial(images.read, advance=advance), chunks):
                bad += found
    if bad and not skip_unreadable:
        raise bad_images(bad, remedy=", or leave them out with --skip-unreadable")
    if bad:
        _log_all(bad)
        readable = folders.without({path.relative_to(folders.root).as_posix() for path, _ in bad})
        train.keep(readable.train)
        val.keep(readable.val)
        logger.warning("left out %s that can't be read", counted(len(bad), "image"))
    return train, val


def _log_all(bad: Sequence[BadImage]) -> None:
    for path, error in bad:
        logger.warning("unreadable: %s (%s)", _shown(path), error)


def _shown(path: Path) -> str:
    return one_line(utf8_text(path))


def bad_images(bad: Sequence[BadImage], *, remedy: str = "") -> DataError:
    """Return the error that counts unreadable images and names the first few; if there are more, the log lists all."""
    if len(bad) > NAMED_IN_ERRORS:
        _log_all(bad)
    named = name_some(f"{_shown(path)} ({error})" for path, error in bad)
    which = "it" if len(bad) == 1 else "them"
    above = ", all listed above" if len(bad) > NAMED_IN_ERRORS else ""
    return DataError(f"{counted(len(bad), 'image')} can't be read: {named}{above}; repair or remove {which}{remedy}")


def draw_batches(images: int, *, batch_size: int, generator: torch.Generator) -> list[Draw]:
    """Return one epoch's batches: each image at most once, with order and seeds from `generator`.

    An incomplete last batch is left out, because batch normalisation can't learn from one or two images. Each epoch
    leaves out other images.
    """
    order = torch.randperm(images, generator=generator).tolist()
    seeds = torch.randint(2**62, (images,), generator=generator).tolist()
    drawn = list(zip(order, seeds, strict=True))
    complete = max(1, images // batch_size)
    return [drawn[start * batch_size : (start + 1) * batch_size] for start in range(complete)]


def in_order(images: int, *, batch_size: int) -> list[Draw]:
    """Return batches of all images in order; the last batch may be smaller."""
    return [[(i, 0) for i in range(start, min(start + batch_size, images))] for start in range(0, images, batch_size)]
