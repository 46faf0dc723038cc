"""The ways of running an artifact: measuring each with the engine that will run it, and deciding if it is allowed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET

from classifier.artifact import MODEL, MODEL_FP16, MODEL_INT8
from classifier.engines.selection import describe_way, open_engine
from classifier.errors import EngineError, EngineUnavailable
from classifier.progress import show_progress
from classifier.types import AllowedPrecision
from classifier.wording import counted
from export.measuring.evaluation import PrecisionEvaluation, compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.types import ModelConfig, Precision
    from export.images import LabelledImages
    from export.measuring.evaluation import Measurement

logger = logging.getLogger(__name__)

WAYS = (
    AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL),
    AllowedPrecision(precision="fp32", engine="onnxruntime", device="cuda", graph=MODEL),
    AllowedPrecision(precision="fp32", engine="openvino", device="cpu", graph=MODEL),
    AllowedPrecision(precision="bf16", engine="openvino", device="cpu", graph=MODEL, needs=("bf16",)),
    AllowedPrecision(precision="fp16", engine="onnxruntime", device="cuda", graph=MODEL_FP16),
    AllowedPrecision(precision="int8", engine="onnxruntime", device="cpu", graph=MODEL_INT8),
    AllowedPrecision(precision="int8", engine="openvino", device="cpu", graph=MODEL_INT8),
)
"""Every way of running that this release knows, the most exact first. All others are compared with the first."""

PRECISIONS: tuple[Precision, ...] = tuple(dict.fromkeys(way.precision for way in WAYS))

MAX_ACCURACY_DROP = 0.005
"""The largest allowed loss of acc1 against fp32, unless the user gives another."""

TOLERANCE_FLOORS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-3, "bf16": 8e-3, "int8": 1e-2}
"""The smallest tolerance for each precision, because kernels of other machines differ more than a measurement shows.
fp16 rounds each value by up to 2⁻¹¹ of it, bf16 and int8 by up to 2⁻⁸."""

RUN_ALONE = 256
"""Images that are also run one at a time, on one thread. bf16 has been seen to change the bits of only one in 80."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Yardstick:
    """Labelled images and their fp32 probabilities, with which every other way of running is compared.

    Attributes:
        dataset: the name of the images' folder.
        config: the model's.
        fp32: float32 `[N, classes]`.
    """

    dataset: str
    images: LabelledImages
    config: ModelConfig
    fp32: NDArray[np.float32]

    def measure(self, way: AllowedPrecision, engine: Engine, graph: bytes) -> Measurement:
        """Return the measurement of `engine`, which was opened to run `graph` in this way.

        Raises:
            DataError: an image is gone or can't be read.
            EngineError: the engine failed, or its scores are not finite. The message is written into the artifact.
        """
        scores = run_engine(engine, self.images, title=describe_way(way))
        if not np.isfinite(scores).all():
            raise EngineError(f"{describe_way(way)} gives scores that are no finite numbers; choose another precision")
        # The number of threads doesn't apply to a GPU.
        single = engine if way.device == "cuda" else open_way(way, self.config, graph, threads=1)
        count, unlike = self.unlike_alone(single, scores, title=f"{describe_way(way)}, one at a time")
        return replace(self.compare(scores, engine), run_alone=count, unlike_alone=unlike)

    def unlike_alone(self, engine: Engine, scores: NDArray[np.float32], *, title: str) -> tuple[int, int]:
        """Return how many images were run alone, and how many of them got scores that differ in any bit from `scores`.

        Args:
            engine: runs one image at a time.
            scores: of all images, run in batches.
            title: shown with the progress.
        """
        chosen = choose_to_run_alone(len(scores))
        unlike = 0
        with show_progress(len(chosen), title=title) as advance:
            for index in chosen:
                alone = engine.run(self.images.pixels(index)[np.newaxis])
                unlike += alone.tobytes() != scores[index].tobytes()
                advance(1)
        return len(chosen), unlike

    def compare(self, scores: NDArray[np.float32], engine: Engine) -> Measurement:
        """Return the measurement of `scores`, which `engine` gave the images."""
        return compare(
            scores, self.fp32, self.images.truth, self.config.labels, engine=engine.info, dataset=self.dataset
        )


def choose_to_run_alone(images: int) -> list[int]:
    """Return the indices of up to `RUN_ALONE` images: some of each label, and at each place in a batch.

    Images are sorted by label, and the bits may depend on the place.
    """
    count = min(images, RUN_ALONE)
    step = max(images // RUN_ALONE, 1)
    return [index * images // count + index % step for index in range(count)]


def is_baseline(way: AllowedPrecision) -> bool:
    """Return whether `way` is ONNX Runtime in fp32 on the CPU, in batches or alone."""
    return replace(way, batch_size=UNSET) == WAYS[0]


def ways_of(graph: str) -> list[AllowedPrecision]:
    """Return the ways of running a graph file of an artifact."""
    return [way for way in WAYS if way.graph == graph]


def open_way(way: AllowedPrecision, config: ModelConfig, graph: bytes, *, threads: int | None = None) -> Engine:
    """Return an engine that runs `graph`, of the model with `config`, in this way, opened as in production.

    Raises:
        EngineError: this machine can't run it this way.
    """
    # Production opens only what the config allows.
    allowing = replace(config, allowed=(way,) if is_baseline(way) else (WAYS[0], way))
    return open_engine(
        allowing, lambda _: graph, engine=way.engine, device=way.device, precision=way.precision, threads=threads
    )


def try_way(
    way: AllowedPrecision, graph: bytes, yardstick: Yardstick, *, limit: float, note: str = ""
) -> PrecisionEvaluation:
    """Measure and judge running `graph` in this way; it stays unmeasured if this machine can't run it.

    A way whose engine fails is not allowed; other ways are unaffected.
    """
    measurement = None
    try:
        measurement = yardstick.measure(way, open_way(way, yardstick.config, graph), graph)
    except EngineUnavailable as error:
        logger.debug("%s is not measured: %s", describe_way(way), error)
    except EngineError as error:
        logger.warning("%s is not allowed: %s", describe_way(way), error)
        return replace(judge(way, None, limit=limit, note=note), allowed=False, reason=str(error))
    return judge(way, measurement, limit=limit, note=note)


def run_engine(engine: Engine, images: LabelledImages, *, title: str) -> NDArray[np.float32]:
    """Return the probabilities of all images by `engine`, `[N, classes]`."""
    scores = []
    with show_progress(len(images), title=title) as advance:
        for files, images_nhwc in images.batches():
            scores.append(engine.run(images_nhwc))
            advance(len(files))
    return np.concatenate(scores)


def judge(
    way: AllowedPrecision, measurement: Measurement | None, *, limit: float, note: str = ""
) -> PrecisionEvaluation:
    """Decide whether a model may be run in this way. `measurement` is None if this machine could not measure it.

    ONNX Runtime in fp32 is always allowed: it computes what the network does, and every machine has it. The reasons
    are written into the artifact.
    """
    reason = ""
    if measurement is None:
        if way.precision != "fp32" or way.engine != WAYS[0].engine:
            reason = f"not measured yet: 'tandem evaluate' does it on a machine with {_requirements(way)}"
    elif measurement.unlike_alone and not is_baseline(way):
        reason = (
            f"{measurement.unlike_alone} of {counted(measurement.run_alone, 'image')} got other scores alone "
            "than beside others"
        )
    elif measurement.acc1_drop > limit and not is_baseline(way):
        reason = f"acc1 is {100 * measurement.acc1_drop:.2f} points lower, {100 * limit:g} are allowed"
    return PrecisionEvaluation(
        precision=way.precision,
        engine=way.engine,
        device=way.device,
        graph=way.graph,
        needs=way.needs,
        batch_size=way.batch_size,
        allowed=not reason,
        reason=reason,
        note=note,
        measurement=measurement,
    )


def not_made(way: AllowedPrecision, reason: str) -> PrecisionEvaluation:
    """Return the evaluation of a way that has no graph; `reason` is written into the artifact."""
    return replace(judge(way, None, limit=0), allowed=False, reason=f"not made: {reason}")


def tolerances(evaluations: Iterable[PrecisionEvaluation]) -> dict[Precision, float]:
    """Return each allowed precision's tolerance: twice the largest difference from fp32, but at least the floor."""
    found: dict[Precision, float] = {}
    for each in evaluations:
        if each.allowed:
            measured = 0.0 if each.measurement is None else 2 * each.measurement.max_difference
            found[each.precision] = max(TOLERANCE_FLOORS[each.precision], measured, found.get(each.precision, 0.0))
    return found


def _requirements(way: AllowedPrecision) -> str:
    requirements = {
        "cuda": "an NVIDIA GPU",
        "openvino": "OpenVINO",
        "bf16": "a CPU with bf16",
        "vnni": "a CPU with VNNI",
    }
    return " and ".join(requirements[name] for name in (way.device, way.engine, *way.needs) if name in requirements)
