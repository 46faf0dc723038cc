"""What every engine asks of a graph, and of the images that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier.errors import DamagedArtifact, OutOfDeviceMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTPUT = "probabilities"
EMBEDDINGS = "embeddings"
"""The output that only the graphs of some models have: what the last layer takes."""
Outputs = tuple[str, ...]
"""Names of outputs that are asked for; others are not copied, nor computed where that can be left out."""

# x[1, 1, 1, 1] → Conv(x, x) → MatMul: the smallest ONNX graph that needs both cuDNN and cuBLAS.
# tests/classifier/test_engines.py builds the same bytes with the package onnx.
PROBE = bytes.fromhex(
    "080a3a650a0f0a01780a01781201632204436f6e760a110a01630a016312017922064d61744d756c120570726f62655a"
    "1b0a017812160a14080112100a0208010a0208010a0208010a020801621b0a017912160a14080112100a0208010a0208"
    "010a0208010a02080142040a001014"
)


def check_numbers(*, threads: int | None, batch_size: int | None) -> None:
    """Check what a caller gives an engine.

    Raises:
        ValueError: one of the numbers is below 1.
    """
    if (threads is not None and threads < 1) or (batch_size is not None and batch_size < 1):
        raise ValueError(f"an engine wants threads and batch_size of 1 or more, got {threads} and {batch_size}")


def check_images(images_nhwc: NDArray[np.uint8], *, size: int) -> None:
    """Check that the images are what a graph for `size` pixels takes.

    Raises:
        ValueError: they aren't.
    """
    if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != (size, size, 3):
        raise ValueError(
            f"the graph takes uint8 [N, {size}, {size}, 3], got {images_nhwc.dtype} {list(images_nhwc.shape)}"
        )


def check_embeds(embedding_size: int | None) -> None:
    """Check that a graph gives embeddings.

    Raises:
        ValueError: it doesn't.
    """
    if embedding_size is None:
        raise ValueError(f"the graph has no output '{EMBEDDINGS}'")


def not_a_classifier(file: str, *, inputs: object, outputs: object) -> DamagedArtifact:
    """Return the error of a graph that has other inputs and outputs than a classifier's."""
    return DamagedArtifact(
        f"{file} takes {inputs} and gives {outputs}, where one uint8 [N, H, H, 3] and float32 '{OUTPUT}' [N, classes] "
        "are wanted; export it with 'tandem export'"
    )


def is_memory(error: Exception) -> bool:
    """Return whether an engine failed because memory is full. None of them has a type for that."""
    message = str(error).lower()
    signs = (
        *("failed to allocate", "smaller than requested bytes", "resource allocation failed"),
        *("out of memory", "alloc_failed", "bad_alloc"),
    )
    return isinstance(error, MemoryError) or any(sign in message for sign in signs)


def no_room(what: str, device: str) -> OutOfDeviceMemory:
    """Return the error of a device that does not hold `what`."""
    return OutOfDeviceMemory(
        f"{what} does not fit into the free memory of {device}; free some, or choose a smaller batch size"
    )
