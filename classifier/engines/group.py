"""Several GPUs as one engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from classifier.engines import Engine

_T = TypeVar("_T")


class EngineGroup:
    """Engines that run one graph with the same bits, each on a device of its own, side by side.

    Attributes:
        info: of the first, with the devices of all: `cuda:0,1`.
        busy_size: how many images occupy all of them.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        first = engines[0]
        kind = first.info.device.partition(":")[0]
        indices = ",".join(engine.info.device.partition(":")[2] for engine in engines)
        self.info = replace(first.info, device=f"{kind}:{indices}")
        self.crop_size, self.classes, self.embedding_size = first.crop_size, first.classes, first.embedding_size
        self.busy_size = sum(engine.busy_size for engine in engines)
        self._count, self._each_busy_size = len(engines), first.busy_size
        self._batch_size = first.info.batch_size or first.busy_size
        self._idle: SimpleQueue[Engine] = SimpleQueue()
        for engine in engines:
            self._idle.put(engine)
        self._pool = ThreadPoolExecutor(len(engines), thread_name_prefix=kind)

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: a device failed.
        """
        return np.concatenate(self._spread(images_nhwc, lambda engine, part: engine.run(part)))

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what `run` does, to the bit, and the images' embeddings as float32 `[N, embedding_size]`.

        Raises:
            ValueError: the graph gives no embeddings, or as `run` has it.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: a device failed.
        """
        scores, embeddings = zip(*self._spread(images_nhwc, lambda engine, part: engine.embed(part)), strict=True)
        return np.concatenate(scores), np.concatenate(embeddings)

    def _spread(self, images_nhwc: NDArray[np.uint8], run: Callable[[Engine, NDArray[np.uint8]], _T]) -> list[_T]:
        """Return what `run` gives for each part of the images, in their order."""

        def run_part(part: NDArray[np.uint8]) -> _T:
            engine = self._idle.get()
            try:
                return run(engine, part)
            finally:
                self._idle.put(engine)

        # At least one part, so that an engine looks at the shape of no images, too.
        total = max(len(images_nhwc), 1)
        # What keeps an engine busy, or fewer whole batches, where the images would else leave another engine idle.
        size = min(self._each_busy_size, -(-total // (self._count * self._batch_size)) * self._batch_size)
        starts = range(0, total, size)
        return list(self._pool.map(run_part, (images_nhwc[start : start + size] for start in starts)))
