"""The golden set: a few real images with the scores that they must get, replayed wherever a model is opened."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier.artifact import GOLDEN
from classifier.errors import DamagedArtifact, ImageError, SelfTestFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.model import Model
    from classifier.types import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestReport:
    """A golden set that was replayed and passed.

    Attributes:
        images: how many were replayed.
        max_difference: the largest distance of a score from the expected one.
        tolerance: the distance that is allowed at the engine's precision.
        engine: what ran.
    """

    images: int
    max_difference: float
    tolerance: float
    engine: EngineInfo
    elapsed_s: float


def self_test(model: Model) -> SelfTestReport:
    """Return a report of the model's golden set, decoded and run as any other image is.

    Two facts are tested: the scores are the expected ones, within the tolerance of the precision that runs, and each
    image's scores are the same bits alone as in a batch.

    Raises:
        SelfTestFailed: one of them does not hold.
        DamagedArtifact: the golden set is not of this model.
    """
    started = time.perf_counter()
    golden, info = model.golden, model.engine.info
    tolerance = golden.tolerances.get(info.precision)
    if tolerance is None:
        raise DamagedArtifact(
            f"{GOLDEN} of {model.identity} has no tolerance for precision '{info.precision}'; export the model again"
        )
    try:
        images_nhwc = np.stack([model.decode(image).pixels for image in golden.images])
    except ImageError as error:
        raise SelfTestFailed(
            f"{model.identity} failed its self-test: a golden image does not decode here ({error}); "
            "'tandem doctor' shows what is installed"
        ) from error
    scores = model.scores(images_nhwc)
    if scores.shape != golden.scores.shape:
        raise DamagedArtifact(
            f"{GOLDEN} of {model.identity} has scores {list(golden.scores.shape)} where the graph gives "
            f"{list(scores.shape)}; export the model again"
        )
    difference = float(np.abs(scores - golden.scores).max())
    if not difference <= tolerance:  # so written, a NaN fails
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {info}: a score is {difference:.3g} away from the "
            f"expected one, and {tolerance:.3g} is allowed; choose another engine, device or precision"
        )
    if not are_independent(model.engine, images_nhwc, scores):
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {info}: an image's scores depend on the images beside "
            "it; choose another engine or device"
        )
    return SelfTestReport(
        images=len(golden.images),
        max_difference=difference,
        tolerance=tolerance,
        engine=info,
        elapsed_s=time.perf_counter() - started,
    )


def are_independent(engine: Engine, images_nhwc: NDArray[np.uint8], scores: NDArray[np.float32]) -> bool:
    """Return whether each image's scores are the same bits alone as in a batch, where they were `scores`."""
    alone = np.concatenate([engine.run(image[np.newaxis]) for image in images_nhwc])
    return alone.tobytes() == scores.tobytes()
