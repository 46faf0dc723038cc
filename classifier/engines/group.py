"""Several GPUs as one engine."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from classifier.engines.nvidia import nvidia_driver
from classifier.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from classifier.engines import Engine

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class EngineGroup:
    """Engines that run one graph with the same bits on different devices, side by side. Is itself an `Engine`.

    `info` is that of the first engine, with all devices: `cuda:0,1`.
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
        self.concurrency = sum(engine.concurrency for engine in engines)
        # An engine is here once for each call that it takes: first all of them, then all of them again.
        self._idle: SimpleQueue[Engine] = SimpleQueue()
        for number in range(max(engine.concurrency for engine in engines)):
            for engine in engines:
                if number < engine.concurrency:
                    self._idle.put(engine)
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix=kind)

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of the images; see `Engine.run`."""
        return np.concatenate(self._spread(images_nhwc, lambda engine, part: engine.run(part)))

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the probabilities and embeddings of the images; see `Engine.embed`."""
        scores, embeddings = zip(*self._spread(images_nhwc, lambda engine, part: engine.embed(part)), strict=True)
        return np.concatenate(scores), np.concatenate(embeddings)

    def _spread(self, images_nhwc: NDArray[np.uint8], run: Callable[[Engine, NDArray[np.uint8]], _T]) -> list[_T]:
        """Return the results of `run` on parts of the images, in order."""

        def run_part(part: NDArray[np.uint8]) -> _T:
            engine = self._idle.get()
            try:
                return run(engine, part)
            finally:
                self._idle.put(engine)

        # At least one part, so that an engine checks the shape even of zero images.
        total = max(len(images_nhwc), 1)
        # A part keeps one engine busy; it is fewer whole batches if another engine would otherwise be idle.
        size = min(self._each_busy_size, -(-total // (self._count * self._batch_size)) * self._batch_size)
        starts = range(0, total, size)
        return list(self._pool.map(run_part, (images_nhwc[start : start + size] for start in starts)))


def open_on_all_gpus(open_on: Callable[[str, int | None], Engine], batch_size: int | None) -> Engine:
    """Return an engine on all GPUs of the same kind as GPU 0: only equal GPUs give equal bits.

    A GPU on which the engine can't be opened is left out, except GPU 0.

    Args:
        open_on: opens the engine on a device, with a batch size.
        batch_size: for GPU 0; the others take the size that its engine then has.

    Raises:
        EngineError: the engine can't be opened on GPU 0.
    """
    first = open_on("cuda", batch_size)
    engines = [first]
    for index in _gpus_like_the_first():
        try:
            engines.append(open_on(f"cuda:{index}", first.info.batch_size))
        except EngineError as error:
            log.warning("GPU %d is left out: %s", index, error)
    return EngineGroup(engines) if len(engines) > 1 else first


def _gpus_like_the_first() -> list[int]:
    driver = nvidia_driver()
    gpus = driver.gpus if driver else ()
    return [index for index, gpu in enumerate(gpus) if index > 0 and gpu == gpus[0]]
