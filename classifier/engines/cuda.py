"""Batches of one fixed size on a GPU, and the search for the fastest size."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.engines.failures import running
from classifier.engines.graphs import EMBEDDINGS, OUTPUT
from classifier.engines.nvidia import page_lock
from classifier.errors import OutOfDeviceMemory
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

    from classifier.engines.graphs import Outputs

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 16, 1024
"""The search tries sizes in this range, and smaller ones only if these don't fit into memory."""
WORTHWHILE = 1.1
"""A doubled size must be this many times faster to be taken, since it costs memory and latency."""
UNDER_WAY = 2
"""Number of batches with buffers: one runs while the next is copied to the device."""
_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffers:
    """The buffers of one batch.

    Attributes:
        host: page-locked images in host memory, the source of the copy to the device.
        images: the images on the device.
        rows: name of each output → its values on the device.
        bindings: requested outputs → the session's binding to these buffers.
    """

    host: NDArray[np.uint8]
    images: Any
    rows: Mapping[str, Any]
    bindings: Mapping[Outputs, Any]


class FixedBatch:
    """Runs batches of one size, in buffers that are allocated once. Smaller batches are padded.

    Images are copied from page-locked memory to the device, where the session reads and writes. If several threads
    call `run`, one batch is copied while another runs.

    Attributes:
        shape: `[N, H, W, 3]`, the shape of the images in every execution.
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
        """Allocate the buffers and run once: only the first run loads cuDNN and takes the memory that all runs need.

        Args:
            runtime: the module `onnxruntime`.
            session: the session to run.
            input: name of its input.
            size: number of images in a batch.
            crop_size: height and width of the images.
            widths: columns of the probabilities, and of the embeddings if the graph outputs them.
            device: kind and index, ("cuda", 0).

        Raises:
            OutOfDeviceMemory: one batch does not fit into the device's memory.
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
        """Return the outputs of at most `size` images, one array `[N, columns]` for each name in `outputs`.

        Raises:
            OutOfDeviceMemory: the device has too little memory for the run.
            EngineError: the device failed.
        """
        count = len(images_nhwc)
        buffers = self._idle.get()
        try:
            with running(self._what, device=self._device):
                buffers.host[:count] = images_nhwc
                buffers.host[count:] = 0
                buffers.images.update_inplace(buffers.host)
                # One at a time: each keeps the whole device busy, and two would need twice the memory.
                with self._running:
                    self._session.run_with_iobinding(buffers.bindings[outputs])
                return [buffers.rows[name].numpy()[:count].copy() for name in outputs]
        finally:
            self._idle.put(buffers)

    @property
    def size(self) -> int:
        """Number of images in every execution."""
        return self.shape[0]

    @property
    def _what(self) -> str:
        return f"a batch of {counted(self.size, 'image')}"


def open_fastest(open_with: Callable[[int], FixedBatch]) -> FixedBatch:
    """Return batches of the size that gives the most images per second, measured here and now.

    The size doubles until that is no longer `WORTHWHILE` or memory runs out. If the first size does not fit, it halves.

    Args:
        open_with: opens batches of a given size.

    Raises:
        OutOfDeviceMemory: not even one image fits.
    """
    best, best_rate = None, 0.0
    size, largest = SMALLEST, LARGEST
    while size <= largest:
        try:
            # One expression, so that a size that fails in `_timed` is freed before a smaller one is opened.
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
    log.info("Batches of %d images are the fastest: %.0f images/s without decoding", best.size, best_rate)
    return best


def _timed(batch: FixedBatch) -> tuple[FixedBatch, float]:
    """Return `batch` and its images per second."""
    images_nhwc = np.zeros(batch.shape, dtype=np.uint8)
    elapsed_s = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        batch.run(images_nhwc)
        elapsed_s.append(time.perf_counter() - started)
    return batch, batch.size / statistics.median(elapsed_s)
