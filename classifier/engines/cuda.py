"""Executions of one size on a GPU, and the search for the size that is fastest."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.engines.gpu_memory import page_lock
from classifier.engines.graphs import EMBEDDINGS, OUTPUT
from classifier.engines.sessions import running
from classifier.errors import OutOfDeviceMemory
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

    from classifier.engines.graphs import Outputs

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 16, 1024
"""Sizes between which the fastest is looked for, unless memory ends below."""
WORTHWHILE = 1.1
"""How many times the images per second a doubled size must give to be taken: each costs memory, and a wait."""
UNDER_WAY = 2
"""Batches that have buffers: one is run, the next is on its way to the device."""
_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffers:
    """What one batch needs on its way.

    Attributes:
        host: page-locked images, from which the device is filled.
        images: the same on the device.
        rows: each output, on the device.
        bindings: of the session to these, by the outputs that are asked for.
    """

    host: NDArray[np.uint8]
    images: Any
    rows: Mapping[str, Any]
    bindings: Mapping[Outputs, Any]


class FixedBatch:
    """Runs batches of one size, to which smaller ones are padded, in buffers that are made once.

    The images go from page-locked memory straight to the device; the session reads and writes there. Of batches that
    several threads give, one is carried there while another is run.

    Attributes:
        shape: of the images of every execution, `[N, H, W, 3]`.
    """

    def __init__(
        self,
        runtime: ModuleType,
        session: Any,
        *,
        input: str,
        size: int,
        crop_size: int,
        widths: Mapping[str, int],
        device: tuple[str, int],
    ) -> None:
        """Make the buffers on `device`, as ("cuda", 0), and run once.

        `widths` says how many numbers each output has for an image: the probabilities, and where there are any the
        embeddings.

        Only a first run loads cuDNN and takes the memory that every other will need.

        Raises:
            OutOfDeviceMemory: the device does not hold one batch.
            EngineError: the device failed.
        """
        self.shape = (size, crop_size, crop_size, 3)
        self._session = session
        self._device = ":".join(map(str, device))
        self._running = Lock()
        self._idle: SimpleQueue[_Buffers] = SimpleQueue()
        with running(self._what, device=self._device):
            for _ in range(UNDER_WAY):
                self._idle.put(self._make_buffers(runtime, input=input, widths=widths, device=device))
        self.run(np.zeros(self.shape, dtype=np.uint8))

    def _make_buffers(
        self, runtime: ModuleType, *, input: str, widths: Mapping[str, int], device: tuple[str, int]
    ) -> _Buffers:
        images = runtime.OrtValue.ortvalue_from_shape_and_type(self.shape, np.uint8, *device)
        rows = {
            name: runtime.OrtValue.ortvalue_from_shape_and_type((self.size, width), np.float32, *device)
            for name, width in widths.items()
        }
        bindings = {}
        for outputs in [(OUTPUT,), (OUTPUT, EMBEDDINGS)] if EMBEDDINGS in widths else [(OUTPUT,)]:
            bindings[outputs] = binding = self._session.io_binding()
            binding.bind_ortvalue_input(input, images)
            for name in outputs:
                binding.bind_ortvalue_output(name, rows[name])
        host = page_lock(np.zeros(self.shape, dtype=np.uint8), index=device[1])
        return _Buffers(host=host, images=images, rows=rows, bindings=bindings)

    def run(self, images_nhwc: NDArray[np.uint8], outputs: Outputs = (OUTPUT,)) -> list[NDArray[np.float32]]:
        """Return these outputs of at most `size` images.

        Raises:
            OutOfDeviceMemory: the device does not hold what the run needs.
            EngineError: the device failed.
        """
        count = len(images_nhwc)
        buffers = self._idle.get()
        try:
            with running(self._what, device=self._device):
                buffers.host[:count] = images_nhwc
                buffers.host[count:] = 0
                buffers.images.update_inplace(buffers.host)
                # Two at once would take twice the memory, and either fills the device.
                with self._running:
                    self._session.run_with_iobinding(buffers.bindings[outputs])
                return [buffers.rows[name].numpy()[:count].copy() for name in outputs]
        finally:
            self._idle.put(buffers)

    @property
    def size(self) -> int:
        """How many images every execution has."""
        return self.shape[0]

    @property
    def _what(self) -> str:
        return f"a batch of {counted(self.size, 'image')}"


def open_fastest(open_with: Callable[[int], FixedBatch]) -> FixedBatch:
    """Return the batch of the size with the most images per second, measured here and now.

    The size is doubled until that stops to be worthwhile, or memory ends; where it ends at once, it is halved.

    Args:
        open_with: gives the batch of a size.

    Raises:
        OutOfDeviceMemory: not even one image fits.
    """
    best, best_rate = None, 0.0
    size, largest = SMALLEST, LARGEST
    while size <= largest:
        try:
            # In one expression: a size that fails while it is timed holds no memory while a smaller one is opened.
            opened, rate = _timed(open_with(size))
        except OutOfDeviceMemory:
            if best is not None:
                break
            if size == 1:
                raise
            size = largest = size // 2
            continue
        log.debug("Batches of %d: %.0f images/s", size, rate)
        if rate < WORTHWHILE * best_rate:
            break
        best, best_rate = opened, rate
        size *= 2
    assert best is not None
    log.info("Batches of %d images are the fastest: %.0f images/s, decoding not counted", best.size, best_rate)
    return best


def _timed(batch: FixedBatch) -> tuple[FixedBatch, float]:
    """Return the batch, and its images per second."""
    images_nhwc = np.zeros(batch.shape, dtype=np.uint8)
    elapsed_s = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        batch.run(images_nhwc)
        elapsed_s.append(time.perf_counter() - started)
    return batch, batch.size / statistics.median(elapsed_s)
