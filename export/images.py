"""Labelled images for measurements, decoded as in production.

Not `training.data.tensors.ImageSet`, which needs torch: `tandem evaluate` measures without it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from classifier.errors import DataError, ImageError
from classifier.hardware import cpu_limit
from classifier.images import decode_image, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.types import Preprocessing

BATCH_SIZE = 32
"""Fixed, because it affects the last bits of torch's scores, and these scores are part of an artifact."""

MAX_BYTES_IN_MEMORY = 1 << 30
"""Images whose pixels fit in this are decoded once; others, in every pass."""


class LabelledImages:
    """Images with their labels.

    Attributes:
        files: the image files.
        truth: the index of each image's label, int64 `[N]`.
    """

    def __init__(self, samples: Sequence[tuple[Path, int]], preprocessing: Preprocessing) -> None:
        """Take image files with the indices of their labels, without opening them."""
        self.files = tuple(path for path, _ in samples)
        self.truth = np.array([label for _, label in samples], dtype=np.int64)
        self._preprocessing = preprocessing
        self._in_memory = len(samples) * 3 * preprocessing.crop_size**2 <= MAX_BYTES_IN_MEMORY
        self._decoded: list[NDArray[np.uint8]] = []

    def __len__(self) -> int:
        return len(self.files)

    def batches(self) -> Iterator[tuple[Sequence[Path], NDArray[np.uint8]]]:
        """Yield files with their pixels, uint8 `[N, H, W, 3]`, in order, `BATCH_SIZE` at a time.

        Raises:
            DataError: an image is gone or can't be read.
        """
        with ThreadPoolExecutor(max_workers=cpu_limit()) as pool:  # the codecs release the GIL
            for index, start in enumerate(range(0, len(self.files), BATCH_SIZE)):
                files = self.files[start : start + BATCH_SIZE]
                if index < len(self._decoded):
                    images_nhwc = self._decoded[index]
                else:
                    images_nhwc = np.stack(list(pool.map(self._decode, files)))
                    if self._in_memory:
                        self._decoded.append(images_nhwc)
                yield files, images_nhwc

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of one image, uint8 `[H, W, 3]`.

        Raises:
            DataError: the image is gone or can't be read.
        """
        batch, offset = divmod(index, BATCH_SIZE)
        return self._decoded[batch][offset] if batch < len(self._decoded) else self._decode(self.files[index])

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        try:
            return decode_image(read_image(path), self._preprocessing).pixels
        except ImageError as error:
            raise DataError(f"the image {path} can't be used ({error}): restore it") from error
