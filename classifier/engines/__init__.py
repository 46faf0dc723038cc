"""Engines: each runs a graph on one kind of device, uint8 images in, float32 scores out.

- `selection` chooses engine, device and precision, and opens the engine.
- `onnxruntime` is the engine for CPU and CUDA. It uses `runtime` (the installed library), `sessions`, `cuda` (batches
  of one size) and `group` (several GPUs).
- `openvino` is the engine for CPU. It uses `compiling` and `cache` (compiled models on disk).
- All share `screening` (what a graph may hold), `graphs` (inputs and outputs), `failures` (exceptions → errors) and
  `nvidia` (the GPU driver).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier.types import EngineInfo

Tuning = Literal["latency", "throughput"]
"""The goal of an engine: the earliest answer to one image, or the most images per second."""


class Engine(Protocol):
    """A graph, loaded and ready to run. Safe to call from several threads."""

    @property
    def info(self) -> EngineInfo:
        """Engine, device and precision, as recorded with every result."""

    @property
    def crop_size(self) -> int:
        """Height and width of the images that the graph takes."""

    @property
    def classes(self) -> int:
        """Number of scores for each image."""

    @property
    def embedding_size(self) -> int | None:
        """Length of an image's embedding; None if the graph outputs none."""

    @property
    def busy_size(self) -> int:
        """Number of images that keep the engine busy: if you have many, pass this many to each `run`."""

    @property
    def concurrency(self) -> int:
        """Number of calls of `run` that may be under way for the most images per second; more only wait."""

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have the wrong shape or type: the caller's error.
            OutOfDeviceMemory: a batch does not fit into the device's memory.
            EngineError: the device failed.
        """

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the result of `run`, bit for bit, and the images' embeddings as float32 `[N, embedding_size]`.

        An embedding is the input of the network's last layer. Like the scores, it does not depend on other images.

        Raises:
            ValueError: the graph outputs no embeddings, or as for `run`.
            OutOfDeviceMemory: a batch does not fit into the device's memory.
            EngineError: the device failed.
        """
