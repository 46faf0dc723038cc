"""Engines: each runs a graph on one kind of device, uint8 images in, float32 scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier.types import EngineInfo

Tuning = Literal["latency", "throughput"]
"""What an engine is opened for: the soonest answer for one image, or the most images in a second."""


class Engine(Protocol):
    """A graph, loaded and ready to run. Safe to call from several threads."""

    @property
    def info(self) -> EngineInfo:
        """What runs, as it is recorded with every result."""

    @property
    def crop_size(self) -> int:
        """The height and width of the images that the graph takes."""

    @property
    def classes(self) -> int:
        """How many scores the graph gives for each image."""

    @property
    def embedding_size(self) -> int | None:
        """How many numbers an image's embedding has; None where the graph gives none."""

    @property
    def busy_size(self) -> int:
        """How many images keep the engine busy: where there are many, run that many at once."""

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what `run` does, to the bit, and the images' embeddings as float32 `[N, embedding_size]`.

        An embedding is what the network's last layer takes, and as independent of the other images as the scores are.

        Raises:
            ValueError: the graph gives no embeddings, or as `run` has it.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """
