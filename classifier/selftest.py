"""The self-test: replay a model's golden set, a few real images with the scores that they must get."""

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
    """The result of a self-test that passed.

    Attributes:
        images: number of images replayed.
        max_difference: the largest difference between a score and the expected one.
        tolerance: the difference allowed at the engine's precision.
        engine: the engine that ran.
        elapsed_s: duration in seconds.
    """

    images: int
    max_difference: float
    tolerance: float
    engine: EngineInfo
    elapsed_s: float


def self_test(model: Model) -> SelfTestReport:
    """Return the report of the model's self-test; golden images are decoded and run like any others.

    It checks that the scores are within the precision's tolerance of the expected ones, and that each image's scores
    are bit-equal alone and in a batch.

    Raises:
        SelfTestFailed: a check fails, or a golden image can't be decoded here.
        DamagedArtifact: the golden set does not fit the model.
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
            f"{model.identity} failed its self-test: a golden image can't be decoded here ({error}); "
            "'tandem doctor' shows what is installed"
        ) from error
    scores = model.scores(images_nhwc)
    if scores.shape != golden.scores.shape:
        raise DamagedArtifact(
            f"{GOLDEN} of {model.identity} has scores {list(golden.scores.shape)} but the graph gives "
            f"{list(scores.shape)}; export the model again"
        )
    difference = float(np.abs(scores - golden.scores).max())
    if not difference <= tolerance:  # Not `>`: NaN must fail.
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {info}: a score differs by {difference:.3g} from the "
            f"expected one, {tolerance:.3g} is allowed; choose another engine, device or precision"
        )
    if not are_independent(model.engine, images_nhwc, scores):
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {info}: an image's scores depend on the other images in "
            "its batch; choose another engine or device, or export it again"
        )
    return SelfTestReport(
        images=len(golden.images),
        max_difference=difference,
        tolerance=tolerance,
        engine=info,
        elapsed_s=time.perf_counter() - started,
    )


def are_independent(engine: Engine, images_nhwc: NDArray[np.uint8], scores: NDArray[np.float32]) -> bool:
    """Return whether each image, run alone, gets the very bits that it got in a batch: `scores`."""
    alone = np.concatenate([engine.run(image[np.newaxis]) for image in images_nhwc])
    return alone.tobytes() == scores.tobytes()
