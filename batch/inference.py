"""Infer: loaded images in, scores out, in batches of one size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from classifier.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from batch.reading import LoadedImage
    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredImage:
    """An image with what the model says of it.

    Attributes:
        scores: float32 `[classes]`; None where the image could not be loaded, and `loaded.image` is the error.
        embedding: float32 `[embedding_size]`, where it was asked for.
    """

    loaded: LoadedImage
    scores: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None


def score_images(
    loaded: Iterable[LoadedImage], model: Model, *, batch_size: int, embeddings: bool = False
) -> Iterator[list[ScoredImage]]:
    """Yield the images with their scores, and their embeddings if asked for, in their order, `batch_size` at a time."""
    images = iter(loaded)
    while batch := list(islice(images, batch_size)):
        pixels = [item.image.pixels for item in batch if not isinstance(item.image, ImageError)]
        rows = iter(_run(model, np.stack(pixels), embeddings=embeddings) if pixels else ())
        yield [
            ScoredImage(loaded=item, scores=scores, embedding=embedding)
            for item in batch
            for scores, embedding in [(None, None) if isinstance(item.image, ImageError) else next(rows)]
        ]


def _run(
    model: Model, images_nhwc: NDArray[np.uint8], *, embeddings: bool
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Return each image's scores and its embedding."""
    if embeddings:
        return zip(*model.scores_and_embeddings(images_nhwc), strict=True)
    return ((scores, None) for scores in model.scores(images_nhwc))


def batch_size_of(model: Model, asked: int | None) -> int:
    """Return how many images go into the engine at once: where its own size is not fixed, what was asked for."""
    engine = model.engine
    return engine.busy_size if asked is None or engine.info.batch_size is not None else asked
