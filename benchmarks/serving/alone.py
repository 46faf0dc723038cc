"""The work of an answer without a server: its decoding and its inference, an image at a time."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from registry import LocalRegistry, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry import Artifact

_PASSES = 5


def cpu_ms_alone(artifact: Artifact, files: Sequence[Path], *, threads: int) -> float:
    """Return the CPU milliseconds of this process per image: the median of several passes over `files`."""
    registry = LocalRegistry.holding(artifact)
    model = open_model(
        artifact.identity, registry=registry, engine="onnxruntime", device="cpu", precision="fp32", threads=threads
    )
    images = [file.read_bytes() for file in files]
    passes = []
    for _ in range(1 + _PASSES):
        begun = time.process_time()
        for image in images:
            model.classify([image], 1)
        passes.append((time.process_time() - begun) * 1000 / len(images))
    return statistics.median(passes[1:])  # the first one warms up
