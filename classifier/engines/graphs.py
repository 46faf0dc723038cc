"""What every engine requires of a graph, and of the images it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier.errors import DamagedArtifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

OUTPUT = "probabilities"
EMBEDDINGS = "embeddings"
"""An output that only some models' graphs have: the input of the network's last layer."""
Outputs = tuple[str, ...]
"""Names of the requested outputs. Others are not copied, nor computed if the engine can skip them."""

# x[1, 1, 1, 1] → Conv(x, x) → MatMul: the smallest ONNX graph that needs both cuDNN and cuBLAS.
# tests/classifier/engines/test_graphs.py builds the same bytes with the package onnx.
PROBE = bytes.fromhex(
    "080a3a650a0f0a01780a01781201632204436f6e760a110a01630a016312017922064d61744d756c120570726f62655a"
    "1b0a017812160a14080112100a0208010a0208010a0208010a020801621b0a017912160a14080112100a0208010a0208"
    "010a0208010a02080142040a001014"
)


def check_numbers(*, threads: int | None, batch_size: int | None) -> None:
    """Check the options of an engine.

    Raises:
        ValueError: one of the numbers is below 1.
    """
    if (threads is not None and threads < 1) or (batch_size is not None and batch_size < 1):
        raise ValueError(f"an engine needs threads and batch_size of 1 or more, got {threads} and {batch_size}")


def check_images(images_nhwc: NDArray[np.uint8], *, size: int) -> None:
    """Check that the images fit a graph that takes `size` × `size` pixels.

    Raises:
        ValueError: their type or shape is wrong.
    """
    if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != (size, size, 3):
        raise ValueError(
            f"the graph takes uint8 [N, {size}, {size}, 3], got {images_nhwc.dtype} {list(images_nhwc.shape)}"
        )


def check_embeds(embedding_size: int | None) -> None:
    """Check that a graph outputs embeddings.

    Raises:
        ValueError: it doesn't.
    """
    if embedding_size is None:
        raise ValueError(f"the graph has no output '{EMBEDDINGS}'")


def output_widths(outputs: Mapping[str, tuple[str, Sequence[object]]], *, float32: str) -> dict[str, int]:
    """Return the columns of the graph's probabilities and embeddings.

    Args:
        outputs: name of each output → its type and shape.
        float32: the engine's name of that type.
    """
    return {
        name: shape[1]
        for name, (type, shape) in outputs.items()
        if name in (OUTPUT, EMBEDDINGS) and type == float32 and len(shape) == 2 and isinstance(shape[1], int)
    }


def not_a_classifier(file: str, *, inputs: object, outputs: object) -> DamagedArtifact:
    """Return the error for a graph whose inputs and outputs are not a classifier's."""
    return DamagedArtifact(
        f"{file} takes {inputs} and gives {outputs}, but a classifier takes one uint8 [N, H, H, 3] and gives float32 "
        f"'{OUTPUT}' [N, classes]; export it with 'tandem export'"
    )
