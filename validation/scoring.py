"""The scores that a bulk run would give to labelled images."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from batch.pipeline.contained import Decoder
from batch.pipeline.inference import batch_size_of, batched, score_batches
from batch.pipeline.loading import decode_threads, load_images
from batch.pipeline.workers import Loader
from classifier.errors import DataError, ImageError
from classifier.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from batch.inputs.plan import ImageFile
    from batch.pipeline.inference import ScoredImage
    from classifier.model import Model
    from classifier.types import EngineInfo
    from validation.folders import LabelledFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a model was measured on.

    Attributes:
        folder: as it was given.
        images: number of images in it.
        digest: SHA-256 of the images' paths below the folder and of their contents: the same wherever the folder is.
    """

    folder: str
    images: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedImage:
    """An image without scores.

    Attributes:
        reason: the kind of failure in one word, as in a bulk run's rows.
    """

    path: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredFiles:
    """Labelled images with their scores from one model.

    Attributes:
        model: its identity, `digits@sha256:…`.
        digest: the model's.
        truth: the index of each image's label, int64 `[N]`.
        scores: float32 `[N, classes]`; NaN for an image that failed.
        sha256: of each image's file; None if it could not be read.
        failed: the failed images.
    """

    model: str
    digest: str
    engine: EngineInfo
    labels: tuple[str, ...]
    files: tuple[ImageFile, ...]
    truth: NDArray[np.int64]
    scores: NDArray[np.float32]
    sha256: tuple[str | None, ...]
    failed: tuple[FailedImage, ...]
    data: Data

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which images have scores, bool `[N]`."""
        return ~np.isnan(self.scores[:, 0])


def score_files(model: Model, labelled: LabelledFiles, *, batch_size: int | None = None) -> ScoredFiles:
    """Return the scores of labelled images, as a bulk run gets them. Their memory is 4 bytes for each image and label.

    Args:
        model: an opened model, for whose labels `labelled` was made.
        labelled: the images.
        batch_size: images per execution; None for the engine's own choice.

    Raises:
        DataError: a folder disappeared, or no image has scores.
    """
    files = labelled.files
    scores = np.full((len(files), len(model.config.labels)), np.nan, dtype=np.float32)
    sha256: list[str | None] = []
    failed = []
    digest = hashlib.sha256()
    with show_progress(len(files), title=model.name) as advance:
        for row, image in enumerate(_scored(model, labelled, batch_size)):
            path, loaded = image.loaded.file.printable_path, image.loaded
            digest.update(f"{path}\0{loaded.sha256 or '-'}\n".encode())
            sha256.append(loaded.sha256)
            if isinstance(loaded.image, ImageError):
                failed.append(FailedImage(path=path, reason=loaded.image.reason, error=str(loaded.image)))
            else:
                scores[row] = image.scores
            advance(1)
    if len(failed) == len(files):
        raise DataError(
            f"none of the images in '{labelled.folder}' can be classified, so nothing was measured; the first, "
            f"'{failed[0].path}': {failed[0].error}"
        )
    return ScoredFiles(
        model=model.identity,
        digest=model.digest,
        engine=model.engine.info,
        labels=model.config.labels,
        files=files,
        truth=np.array(labelled.truth, dtype=np.int64),
        scores=scores,
        sha256=tuple(sha256),
        failed=tuple(failed),
        data=Data(folder=labelled.folder, images=len(files), digest=f"sha256:{digest.hexdigest()}"),
    )


def _scored(model: Model, labelled: LabelledFiles, batch_size: int | None) -> Iterator[ScoredImage]:
    preprocessing = model.config.preprocessing
    size, threads = batch_size_of(model, batch_size), decode_threads(None)
    with (
        Decoder(preprocessing) as decode,
        closing(Loader(preprocessing, processes=threads)) as load,
        closing(load_images(labelled.files, partial(load, decode=decode), threads=threads, ahead=2 * size)) as loaded,
        closing(score_batches(batched(loaded, size), model)) as scored,
    ):
        for batch in scored:
            yield from batch
