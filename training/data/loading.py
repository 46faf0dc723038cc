"""Batches of tensors, loaded ahead of the network by processes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from classifier.errors import DataError
from classifier.hardware import cpu_limit
from training.data.shared_memory import has_room
from training.data.tensors import BadBatch, bad_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from training.data.tensors import Batch, Draw, ImageSet

Arrays = tuple["NDArray[np.uint8]", "NDArray[np.int64]"]
"""A `Batch` that is pickled as bytes; torch would put its tensors into shared memory."""

_MAX_WORKERS = 8


class _Draws(Sampler["Draw"]):
    def __init__(self, draws: Sequence[Draw]) -> None:
        self._draws = draws

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws)

    def __len__(self) -> int:
        return len(self._draws)


def load_batches(images: ImageSet, draws: Sequence[Draw], *, workers: int, pin: bool) -> Iterator[Batch]:
    """Yield the batches listed in `draws`, loaded ahead by `workers` processes.

    Raises:
        DataError: an image has become unreadable, or a worker could not be started or was killed.
    """
    largest = max(map(len, draws), default=0) * images.image_bytes
    shared = workers == 0 or has_room(largest, workers=workers)
    loader: DataLoader[Batch | Arrays | BadBatch] = DataLoader(
        images,
        sampler=_Draws(draws),
        batch_size=None,  # the sampler yields whole batches
        num_workers=workers,
        collate_fn=None if shared else _as_arrays,
        pin_memory=pin,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # by default it would use the generator that dropout uses
    )
    try:
        for batch in _started(loader):
            if isinstance(batch, BadBatch):
                raise bad_images(batch.images)
            images_nhwc, labels = map(torch.as_tensor, batch)
            yield images_nhwc, labels
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that loads images was killed, usually because memory ran out: give fewer --workers"
        ) from error


def _started(loader: DataLoader[Batch | Arrays | BadBatch]) -> Iterator[Batch | Arrays | BadBatch]:
    try:
        return iter(loader)
    except OSError as error:  # the queues' semaphores are files in shared memory
        raise DataError(
            f"no process that loads images can be started ({error.strerror}): give --workers 0, or the container more "
            "shared memory with --shm-size"
        ) from error


def _as_arrays(batch: Any) -> Arrays | BadBatch:
    return batch if isinstance(batch, BadBatch) else (batch[0].numpy(), batch[1].numpy())


def _ignore_interrupts(_worker: int) -> None:
    # Ctrl-C reaches workers too; the parent ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_workers(images: ImageSet) -> int:
    """Return how many processes should load batches: none if images are just copied from memory."""
    return 0 if images.is_quick else min(_MAX_WORKERS, cpu_limit())
