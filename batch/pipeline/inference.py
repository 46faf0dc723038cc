"""Runs the engine: loaded images in, scores out, in batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from batch.pipeline.ahead import map_ahead
from classifier.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from batch.pipeline.loading import LoadedImage
    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredImage:
    """An image with its scores.

    Attributes:
        scores: float32 `[classes]`, finite; None if there are none, and `loaded.image` is the error.
        embedding: float32 `[embedding_size]`, if asked for.
    """

    loaded: LoadedImage
    scores: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None


def score_batches(
    batches: Iterable[Sequence[LoadedImage]], model: Model, *, embeddings: bool = False
) -> Generator[list[ScoredImage]]:
    """Yield each batch with its images' scores, and embeddings if asked for, in order.

    The engine runs in a thread of its own, ahead of the caller by one batch.
    """
    stacked = ((batch, _stack(batch)) for batch in batches)
    return map_ahead(lambda each: _score(*each, model, embeddings=embeddings), stacked, threads=1, ahead=1)


def _stack(batch: Sequence[LoadedImage]) -> NDArray[np.uint8] | None:
    """Return the pixels of the loaded images, uint8 `[N, H, W, 3]`; None if there are none."""
    pixels = [item.image.pixels for item in batch if not isinstance(item.image, ImageError)]
    return np.stack(pixels) if pixels else None


def _score(
    batch: Sequence[LoadedImage], images_nhwc: NDArray[np.uint8] | None, model: Model, *, embeddings: bool
) -> list[ScoredImage]:
    rows = iter(() if images_nhwc is None else _run(model, images_nhwc, embeddings=embeddings))
    return [_scored(item, None if isinstance(item.image, ImageError) else next(rows), model) for item in batch]


def _scored(
    loaded: LoadedImage, found: tuple[NDArray[np.float32], NDArray[np.float32] | None] | None, model: Model
) -> ScoredImage:
    """Return an image with its scores and embedding; with an error if they are not numbers."""
    scores, embedding = found or (None, None)
    try:
        model.check_finite(scores, embedding)
    except ImageError as error:
        return ScoredImage(loaded=replace(loaded, image=error), scores=None, embedding=None)
    return ScoredImage(loaded=loaded, scores=scores, embedding=embedding)


def _run(
    model: Model, images_nhwc: NDArray[np.uint8], *, embeddings: bool
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Return each image's scores and embedding."""
    if embeddings:
        return zip(*model.scores_and_embeddings(images_nhwc), strict=True)
    return ((scores, None) for scores in model.scores(images_nhwc))


def batched(images: Iterable[LoadedImage], size: int) -> Iterator[list[LoadedImage]]:
    """Yield the images, `size` at a time."""
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch


def batch_size_of(model: Model, asked: int | None) -> int:
    """Return the images per execution: `asked`, unless the engine has a fixed size or nothing was asked for."""
    engine = model.engine
    return engine.busy_size if asked is None or engine.info.batch_size is not None else asked
