"""The validation images, scored by the network and by its graph, which must agree on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from classifier.errors import ExportRefused
from export.graph import EndToEnd

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
"""By how much a probability of the exported graph may differ from the network's. Labels nearer than this are tied."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredImages:
    """The probabilities of the validation images, by the network and by an engine.

    Attributes:
        reference: by torch in fp32, float32 `[N, classes]`.
        scores: by the engine, float32 `[N, classes]`.
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
    """Return what `network` and `engine`, with its graph in fp32, make of `images`.

    `advance` is called once for each image. With `head`, the name of the network's last layer, their embeddings are
    compared too.

    Raises:
        DataError: an image is gone or can't be read.
        ExportRefused: the two differ.
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
    """Check that an engine gives the network's probabilities, and the same best label but for ties.

    Raises:
        ExportRefused: it does not, or the network's scores are no numbers.
    """
    if not np.isfinite(reference).all():
        raise ExportRefused("the network's scores are not finite numbers: train again with a lower --lr")
    differences = np.abs(scores - reference).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= MAX_DIFFERENCE:  # So written, a NaN is refused.
        raise ExportRefused(
            f"the exported graph does not compute what the network does: a probability of {files[worst].name} is "
            f"{differences[worst]:.2g} away, and {MAX_DIFFERENCE:g} is allowed; train another --arch"
        )
    rows = np.arange(len(reference))
    lead = reference.max(axis=1) - reference[rows, scores.argmax(axis=1)]
    if lead.max() > MAX_DIFFERENCE:
        worst = int(lead.argmax())
        raise ExportRefused(
            f"the exported graph gives {files[worst].name} another label than the network, whose own best is ahead by "
            f"{lead[worst]:.2g}, and {MAX_DIFFERENCE:g} would be a tie; train another --arch"
        )


def check_embeddings(files: Sequence[Path], reference: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
    """Check that an engine gives the network's embeddings.

    Raises:
        ExportRefused: it does not, or they are no numbers.
    """
    # Unlike probabilities they have a scale of their own.
    allowed = MAX_DIFFERENCE * np.abs(reference).max()
    differences = np.abs(embeddings - reference).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not differences[worst] <= allowed < np.inf:  # So written, a NaN is refused.
        raise ExportRefused(
            f"the exported graph does not compute the network's embeddings: a number of that of {files[worst].name} is "
            f"{differences[worst]:.2g} away, and {allowed:.2g} is allowed; export without --embeddings"
        )
