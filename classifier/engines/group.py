"""Several GPUs as one engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier.engines import Engine


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
        self.crop_size, self.classes = first.crop_size, first.classes
        self.busy_size = sum(engine.busy_size for engine in engines)
        self._part_size = first.busy_size
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
        # At least one part, so that an engine looks at the shape of no images, too.
        starts = range(0, max(len(images_nhwc), 1), self._part_size)
        parts = (images_nhwc[start : start + self._part_size] for start in starts)
        return np.concatenate(list(self._pool.map(self._run_part, parts)))

    def _run_part(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        engine = self._idle.get()
        try:
            return engine.run(images_nhwc)
        finally:
            self._idle.put(engine)
