"""Engines: each runs a graph on one device, uint8 images in, float32 scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier.types import EngineInfo


class Engine(Protocol):
    """A graph, loaded on one device and ready to run. Safe to call from several threads."""

    @property
    def info(self) -> EngineInfo:
        """What runs, as it is recorded with every result."""

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0."""
