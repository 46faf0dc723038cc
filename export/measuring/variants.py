"""The graphs of an artifact: each is converted to its precision, measured, and kept if it may be run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classifier.artifact import MODEL, MODEL_FP16, MODEL_INT8
from classifier.engines.selection import describe_way
from classifier.errors import EngineError, EngineUnavailable, ExportRefused
from classifier.wording import counted
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import Quantiser
from export.measuring.precisions import judge, not_made, open_way, try_way, ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.types import CpuFeature, Precision
    from export.measuring.evaluation import Measurement, PrecisionEvaluation
    from export.measuring.precisions import Yardstick

logger = logging.getLogger(__name__)

MAX_FLOAT_PART = 0.5
"""The largest fraction of layers that may stay in fp32; beyond it, little of int8's speed is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A graph, and the evaluation of each way of running it.

    Attributes:
        file: its name in the artifact.
        graph: None if it could not be made, or is not worth keeping.
    """

    file: str
    graph: bytes | None
    evaluations: tuple[PrecisionEvaluation, ...]


def measure_baseline(
    graph: bytes, yardstick: Yardstick, scores: NDArray[np.float32], engine: Engine
) -> PrecisionEvaluation:
    """Return the evaluation of the fp32 graph with ONNX Runtime on the CPU, which gave the images `scores`, in batches.

    If an image gets other bits alone, each image is always run alone.

    Raises:
        ExportRefused: even then its bits depend on the number of threads.
    """
    way, title = ways_of(MODEL)[0], "fp32, one at a time"
    single = open_way(way, yardstick.config, graph, threads=1)
    count, unlike = yardstick.unlike_alone(single, scores, title=title)
    if unlike == 0:
        return judge(way, yardstick.compare(scores, engine), limit=0)
    note = f"one image at a time, because {unlike} of {counted(count, 'image')} got other scores beside others"
    logger.info("%s runs %s", describe_way(way), note)
    alone = replace(way, batch_size=1)
    measured = yardstick.measure(alone, open_way(alone, yardstick.config, graph), graph)
    if measured.unlike_alone:
        raise ExportRefused(
            f"{measured.unlike_alone} of {counted(count, 'image')} got other scores on one thread than on several, so "
            "no two machines need agree: train another --arch"
        )
    return judge(alone, measured, limit=0, note=note)


def measure_fp32_graph(
    graph: bytes,
    yardstick: Yardstick,
    baseline: PrecisionEvaluation,
    *,
    precisions: Collection[Precision],
    limit: float,
) -> Variant:
    """Return the fp32 graph, evaluated in fp32, and in bf16 if `precisions` has that.

    `baseline` is from `measure_baseline`.
    """
    _, *others = (way for way in ways_of(MODEL) if way.precision in {"fp32", *precisions})
    evaluations = [baseline]
    evaluations += [try_way(way, graph, yardstick, limit=limit) for way in others]
    return Variant(file=MODEL, graph=graph, evaluations=tuple(evaluations))


def make_fp16(graph: bytes, yardstick: Yardstick, *, limit: float) -> Variant:
    """Return the graph in fp16, which only a GPU can measure, because on a CPU ONNX Runtime computes in fp32."""
    ways = ways_of(MODEL_FP16)
    size, classes = yardstick.config.preprocessing.crop_size, len(yardstick.config.labels)
    try:
        half = to_fp16(graph, size=size, classes=classes)
    except ExportRefused as error:
        return Variant(file=MODEL_FP16, graph=None, evaluations=tuple(not_made(way, str(error)) for way in ways))
    evaluations = tuple(try_way(way, half, yardstick, limit=limit) for way in ways)
    return Variant(file=MODEL_FP16, graph=half, evaluations=evaluations)


def make_int8(
    graph: bytes, yardstick: Yardstick, *, limit: float, calibration_images: Callable[[], NDArray[np.uint8]]
) -> Variant:
    """Return the graph in int8, with as few layers in fp32 as the limit needs; without a graph if none meets the limit.

    `calibration_images` returns training images, or raises ExportRefused.
    """
    first, *others = ways_of(MODEL_INT8)
    try:
        best = _quantise_within(limit, Quantiser(graph, calibration_images()), yardstick)
    except ExportRefused as error:
        refused = tuple(not_made(way, str(error)) for way in (first, *others))
        return Variant(file=MODEL_INT8, graph=None, evaluations=refused)
    evaluations = [judge(replace(first, needs=best.needs), best.measurement, limit=limit, note=best.note)]
    if not evaluations[0].allowed:
        evaluations += [not_made(way, f"no graph in int8 keeps the limit with {first.engine}") for way in others]
        return Variant(file=MODEL_INT8, graph=None, evaluations=tuple(evaluations))
    for way in (replace(other, needs=best.needs) for other in others):
        evaluations.append(try_way(way, best.graph, yardstick, limit=limit, note=best.note))
    return Variant(file=MODEL_INT8, graph=best.graph, evaluations=tuple(evaluations))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantised:
    graph: bytes
    needs: tuple[CpuFeature, ...]
    note: str
    measurement: Measurement


def _quantise_within(limit: float, quantiser: Quantiser, yardstick: Yardstick) -> _Quantised:
    """Return the first int8 graph whose acc1 is within the limit, else the most accurate one.

    Raises:
        ExportRefused: no graph is usable. The message is written into the artifact.
    """
    best: _Quantised | None = None
    for float_layers, needs in _candidates(quantiser):
        graph = quantiser.quantise(float_layers=float_layers, reduce_range=not needs)
        way = replace(ways_of(MODEL_INT8)[0], needs=needs)
        note = f"{len(float_layers)} of {len(quantiser.layers)} layers in fp32" if float_layers else ""
        try:
            measurement = yardstick.measure(way, open_way(way, yardstick.config, graph), graph)
        except EngineUnavailable as error:
            logger.debug("int8 with 8-bit weights is not tried: %s", error)
            continue
        except EngineError as error:
            logger.info("int8 graph dropped: %s", error)
            continue
        if measurement.unlike_alone:
            logger.info("int8 graph dropped: %s", judge(way, measurement, limit=limit).reason)
            continue
        logger.info(
            "int8 with %d-bit weights%s: acc1 %.2f %%, %+.2f points",
            8 if needs else 7, note and f", {note}", 100 * measurement.metrics.acc1, 0.0 - 100 * measurement.acc1_drop,
        )  # fmt: skip
        if best is None or measurement.acc1_drop < best.measurement.acc1_drop:
            best = _Quantised(graph=graph, needs=needs, note=note, measurement=measurement)
        if measurement.acc1_drop <= limit:
            break
    if best is None:
        raise ExportRefused("no graph in int8 gives an image the same scores alone as beside others")
    return best


def _candidates(quantiser: Quantiser) -> Iterator[tuple[list[str], tuple[CpuFeature, ...]]]:
    """Yield the layers to leave in fp32 and the CPU features needed; the fastest on most machines comes first."""
    yield [], ()
    yield [], ("vnni",)
    ranked, count = quantiser.rank_layers(), 1
    while count <= MAX_FLOAT_PART * len(ranked):
        yield ranked[:count], ()
        count *= 2
