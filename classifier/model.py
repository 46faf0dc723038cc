"""A model: an artifact opened for use."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from classifier.artifact import CONFIG, GOLDEN
from classifier.engines.selection import AUTO, open_engine
from classifier.errors import DamagedArtifact, ImageError
from classifier.golden import GoldenSet
from classifier.images import LIMITS, Limits, decode_image
from classifier.types import ModelConfig, Prediction, from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier.artifact import ArtifactFiles
    from classifier.engines import Engine, Tuning
    from classifier.images import DecodedImage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model that classifies images. Safe to call from several threads.

    Attributes:
        name: `digits`.
        digest: the artifact's digest, `sha256:…`.
        config: labels and preprocessing.
        engine: runs the graph; `engine.info` is recorded with every answer.
        golden: the images and scores that `self_test` replays.
    """

    name: str
    digest: str
    config: ModelConfig
    engine: Engine
    golden: GoldenSet

    @classmethod
    def open(
        cls,
        artifact: ArtifactFiles,
        *,
        engine: str = AUTO,
        device: str = AUTO,
        precision: str = AUTO,
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
    ) -> Self:
        """Return the model in an artifact, not yet self-tested. For the options see `open_engine`.

        Raises:
            DamagedArtifact: a file is missing or malformed.
            EngineUnavailable: the engine, device or precision is not available here.
            OutOfDeviceMemory: the graph or one batch does not fit into the device's memory.
        """
        try:
            config = from_json(artifact.read(CONFIG), ModelConfig)
        except ValueError as error:
            raise DamagedArtifact(
                f"{CONFIG} of {artifact.name}@{artifact.digest} can't be read ({error}); export it again, "
                "or update Tandem"
            ) from error
        model = cls(
            name=artifact.name,
            digest=artifact.digest,
            config=config,
            engine=open_engine(
                config,
                artifact.read,
                engine=engine,
                device=device,
                precision=precision,
                threads=threads,
                batch_size=batch_size,
                tuning=tuning,
                digest=artifact.digest,
            ),
            golden=GoldenSet.from_bytes(artifact.read(GOLDEN)),
        )
        log.info("%s runs on %s", model.identity, str(model.engine.info))
        return model

    @property
    def identity(self) -> str:
        """The name with the digest, `digits@sha256:…`."""
        return f"{self.name}@{self.digest}"

    def decode(self, data: bytes, limits: Limits = LIMITS) -> DecodedImage:
        """Return the pixels of an encoded image, preprocessed for this model.

        Raises:
            ImageError: the image can't be decoded, or is over one of the `limits`.
        """
        return decode_image(data, self.config.preprocessing, limits)

    def scores(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`."""
        return self.engine.run(images_nhwc)

    def scores_and_embeddings(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the result of `scores`, and the embeddings as float32 `[N, config.embedding_size]`.

        Raises:
            ValueError: the model was exported without embeddings.
        """
        return self.engine.embed(images_nhwc)

    def check_finite(self, *numbers: NDArray[np.float32] | None) -> None:
        """Check the scores and the embedding of an image: NaN has no place in a ranking, nor in JSON.

        Raises:
            ImageError: they hold NaN or infinity, as when a layer overflows in fp16.
        """
        if not all(each is None or np.isfinite(each).all() for each in numbers):
            raise ImageError(
                f"{self.identity} gives scores that are not numbers for the image in {self.engine.info.precision}: try "
                "another --precision",
                reason="not_finite",
            )

    def top_k(self, scores_row: NDArray[np.float32], k: int) -> tuple[Prediction, ...]:
        """Return the `k` labels with the highest scores, best first; on a tie, the lower index first.

        Returns all labels if the model has fewer than `k`.
        """
        [best] = self.best(scores_row[np.newaxis], k)
        return tuple(
            Prediction(label=self.config.labels[index], index=index, score=float(scores_row[index]))
            for index in best.tolist()
        )

    def best(self, scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
        """Return the indices of the top-k labels, as in `top_k`, for each row of scores `[N, classes]`."""
        if k < 1:
            raise ValueError(f"top_k must be at least 1, got {k}")
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]

    def classify(self, images: Sequence[bytes], k: int = 5) -> list[tuple[Prediction, ...] | ImageError]:
        """Return the top-k predictions for each encoded image, or its error; a bad image affects no other."""
        answers: list[tuple[Prediction, ...] | ImageError] = []
        pixels = []
        for data in images:
            try:
                pixels.append(self.decode(data).pixels)
                answers.append(())
            except ImageError as error:
                answers.append(error)
        if pixels:
            rows = iter(self.scores(np.stack(pixels)))
            answers = [a if isinstance(a, ImageError) else self._answer(next(rows), k) for a in answers]
        return answers

    def _answer(self, scores_row: NDArray[np.float32], k: int) -> tuple[Prediction, ...] | ImageError:
        try:
            self.check_finite(scores_row)
        except ImageError as error:
            return error
        return self.top_k(scores_row, k)
