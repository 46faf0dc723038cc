"""Comparing the exported graph with the network: they must agree on every validation image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from classifier.errors import ExportRefused
from export.graphs.graph import EndToEnd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from classifier.engines import Engine
    from classifier.progress import Advance
    from classifier.types import Preprocessing
    from export.images import LabelledImages

MAX_DIFFERENCE = 1e-4
"""The largest allowed difference of a probability. Labels whose probabilities are nearer than this count as tied."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredImages:
    """The probabilities of the validation images, from the network and from an engine.

    Attributes:
        reference: from torch in fp32, float32 `[N, classes]`.
        scores: from the engine, float32 `[N, classes]`.
    """

    reference: NDArray[np.float32]
    scores: NDArray[np.float32]


def score_images(
    network: nn.Module,
    engine: Engine,
    images: LabelledImages,
    preprocessing: Preprocessing,
    *,
    head: str | None = None,
    advance: Advance,
) -> ScoredImages:
    """Return the probabilities of `images` from `network` and from `engine`, which runs its fp32 graph.

    `advance` is called with the number of images just scored. With `head`, the name of the network's last layer, the
    embeddings are compared too.

    Raises:
        DataError: an image is gone or can't be read.
        ExportRefused: network and engine disagree.
    """
    end_to_end = EndToEnd(network, preprocessing, head=head).eval()
    reference, scores = [], []
    for files, images_nhwc in images.batches():
        with torch.inference_mode():
            _, expected, *embeddings = (each.numpy() for each in end_to_end(torch.from_numpy(images_nhwc)))
        reference.append(expected)
        scores.append(engine.run(images_nhwc))
        check_agreement(files, reference[-1], scores[-1])
        if embeddings:
            check_embeddings(files, embeddings[0], engine.embed(images_nhwc)[1])
        advance(len(files))
    return ScoredImages(reference=np.concatenate(reference), scores=np.concatenate(scores))


def check_agreement(files: Sequence[Path], reference: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    """Check that an engine's probabilities equal the network's, and that top labels differ only in ties.

    Raises:
        ExportRefused: they don't, or the network's scores are not finite numbers.
    """
    if not np.isfinite(reference).all():
        raise ExportRefused("the network's scores are not finite numbers: train again with a lower --lr")
    differences = np.abs(scores - reference).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= MAX_DIFFERENCE:  # `not <=`, because it also catches NaN
        raise ExportRefused(
            f"the exported graph does not compute what the network does: a probability of {files[worst].name} differs "
            f"by {differences[worst]:.2g}, but only {MAX_DIFFERENCE:g} is allowed; train another --arch"
        )
    rows = np.arange(len(reference))
    lead = reference.max(axis=1) - reference[rows, scores.argmax(axis=1)]
    if lead.max() > MAX_DIFFERENCE:
        worst = int(lead.argmax())
        raise ExportRefused(
            f"the exported graph gives {files[worst].name} another label than the network, whose top label leads by "
            f"{lead[worst]:.2g}; up to {MAX_DIFFERENCE:g} would count as a tie; train another --arch"
        )


def check_embeddings(files: Sequence[Path], reference: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
    """Check that an engine's embeddings equal the network's.

    Raises:
        ExportRefused: they don't, or they are not finite numbers.
    """
    # Unlike probabilities, embeddings have no fixed scale.
    allowed = MAX_DIFFERENCE * np.abs(reference).max()
    differences = np.abs(embeddings - reference).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= allowed < np.inf:  # `not <=`, because it also catches NaN
        raise ExportRefused(
            f"the exported graph does not compute the network's embeddings: a number in that of {files[worst].name} "
            f"differs by {differences[worst]:.2g}, but only {allowed:.2g} is allowed; export without --embeddings"
        )
