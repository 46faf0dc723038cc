from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.engines.selection import AUTO_ORDER
from classifier.errors import EngineError, EngineUnavailable
from classifier.types import AllowedPrecision, EngineInfo, from_json, to_json
from export.graphs.graph import export_graph
from export.images import LabelledImages
from export.measuring import precisions
from export.measuring.evaluation import Measurement, Metrics, PrecisionEvaluation
from export.measuring.precisions import (
    TOLERANCE_FLOORS,
    WAYS,
    Yardstick,
    judge,
    not_made,
    open_way,
    run_engine,
    tolerances,
    try_way,
)
from tests.export.colours import CONFIG, PREPROCESSING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from classifier.engines import Engine

FP32, FP32_CUDA, FP32_OPENVINO, BF16, FP16, INT8, INT8_OPENVINO = WAYS


def measurement(acc1: float, *, fp32: float = 0.9, max_difference: float = 0.01) -> Measurement:
    return Measurement(
        dataset="colours",
        images=1000,
        fp32_acc1=fp32,
        metrics=Metrics(acc1=acc1, acc5=None, loss=0.1, per_class=(), confusion={}),
        agreement=0.99,
        max_difference=max_difference,
        engine_version="1",
        instruction_set="avx2",
    )


def test_auto_knows_exactly_these_ways() -> None:
    """A way that `auto` can't choose would be measured in vain; a way missing here would never be allowed."""
    assert {(way.engine, way.device, way.precision) for way in WAYS} == set(AUTO_ORDER)


@pytest.mark.parametrize(
    ("acc1", "allowed"), [(0.9, True), (0.895, True), (0.95, True), (0.894, False), (0.8949, False)]
)
def test_a_precision_is_allowed_up_to_the_limit_and_no_further(acc1: float, allowed: bool) -> None:
    judged = judge(INT8, measurement(acc1), limit=0.005)
    assert judged.allowed is allowed
    assert bool(judged.reason) is not allowed
    assert judged.way() == INT8


def test_the_reason_gives_the_drop_and_the_limit() -> None:
    assert judge(INT8, measurement(0.88), limit=0.005).reason == "acc1 is 2.00 points lower, 0.5 are allowed"


@pytest.mark.parametrize(
    ("way", "wanted"), [(FP16, "an NVIDIA GPU"), (INT8_OPENVINO, "OpenVINO"), (BF16, "OpenVINO and a CPU with bf16")]
)
def test_an_unmeasured_way_is_not_allowed_and_names_its_requirements(way: object, wanted: str) -> None:
    judged = judge(way, None, limit=1)
    assert not judged.allowed
    assert judged.reason == f"not measured yet: 'tandem evaluate' does it on a machine with {wanted}"


@pytest.mark.parametrize("way", [FP32, FP32_CUDA])
def test_onnx_runtime_in_fp32_is_always_allowed(way: object) -> None:
    """Otherwise a model could be unusable everywhere."""
    assert judge(way, None, limit=0).allowed
    assert judge(FP32, measurement(0.1), limit=0).allowed


def test_a_graph_that_was_not_made_is_never_allowed() -> None:
    refused = not_made(FP16, "it does not hold the numbers")
    assert (refused.allowed, refused.reason) == (False, "not made: it does not hold the numbers")


def test_a_tolerance_is_twice_the_largest_difference_among_allowed_ways_and_has_a_floor() -> None:
    judged = [
        judge(FP32, measurement(0.9, max_difference=1e-6), limit=0.005),
        judge(FP32_CUDA, None, limit=0.005),
        judge(BF16, measurement(0.9, max_difference=1e-4), limit=0.005),
        judge(INT8, measurement(0.9, max_difference=0.02), limit=0.005),
        judge(INT8_OPENVINO, measurement(0.9, max_difference=0.03), limit=0.005),
        judge(FP16, measurement(0.2, max_difference=0.9), limit=0.005),
    ]
    assert tolerances(judged) == {
        "fp32": TOLERANCE_FLOORS["fp32"],
        "bf16": TOLERANCE_FLOORS["bf16"],
        "int8": pytest.approx(0.06),
    }


def test_evaluations_round_trip_through_json() -> None:
    judged = judge(dataclasses.replace(INT8, needs=("vnni",)), measurement(0.9), limit=0, note="1 of 3 layers in fp32")
    assert from_json(to_json(judged), PrecisionEvaluation) == judged


@pytest.fixture
def yardstick(colour_network: nn.Module, samples: list[tuple[Path, int]]) -> tuple[Yardstick, bytes]:
    graph = export_graph(colour_network, CONFIG.labels, PREPROCESSING)
    images = LabelledImages(samples, PREPROCESSING)
    fp32 = np.concatenate([open_way(FP32, CONFIG, graph).run(pixels) for _, pixels in images.batches()])
    return Yardstick(dataset="colours", images=images, config=CONFIG, fp32=fp32), graph


def test_a_way_is_measured_with_its_engine(yardstick: tuple[Yardstick, bytes]) -> None:
    stick, graph = yardstick
    measured = try_way(FP32, graph, stick, limit=0).measurement
    assert measured is not None
    assert (measured.dataset, measured.images, measured.fp32_acc1) == ("colours", 40, 1.0)
    assert (measured.metrics.acc1, measured.agreement, measured.max_difference) == (1.0, 1.0, 0.0)
    openvino = pytest.importorskip("openvino")
    by_openvino = try_way(FP32_OPENVINO, graph, stick, limit=0).measurement
    assert by_openvino is not None
    assert openvino.__version__.startswith(by_openvino.engine_version)
    assert by_openvino.agreement == 1.0
    assert 0 < by_openvino.max_difference < 1e-5


def test_bf16_is_another_arithmetic(yardstick: tuple[Yardstick, bytes]) -> None:
    """If the engine ignored the hint, fp32 would be measured and allowed as bf16."""
    pytest.importorskip("openvino")
    stick, graph = yardstick
    try:
        engine = open_way(BF16, CONFIG, graph)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert stick.compare(run_engine(engine, stick.images, title="bf16"), engine).max_difference > 1e-5


def test_a_way_that_this_machine_can_not_run_is_not_measured(yardstick: tuple[Yardstick, bytes]) -> None:
    """A CPU's result is not used as a GPU's."""
    stick, graph = yardstick
    try:
        open_way(FP32_CUDA, CONFIG, graph)
    except EngineUnavailable:
        assert try_way(FP32_CUDA, graph, stick, limit=0).measurement is None
    else:
        pytest.skip("this machine has CUDA")


class Overflowing:
    """An engine whose arithmetic overflows; no real engine does that with a small graph on a CPU."""

    info = EngineInfo(name="onnxruntime", version="1", device="cuda:0", precision="fp16", instruction_set="sm_90")
    busy_size = 1
    concurrency = 1

    def run(self, images_nhwc: np.ndarray) -> np.ndarray:
        return np.full((len(images_nhwc), 3), np.nan, np.float32)


def test_scores_that_are_not_finite_are_an_engine_error(yardstick: tuple[Yardstick, bytes]) -> None:
    """Comparisons with NaN are false, so a limit on the difference would not catch it."""
    engine: Engine = Overflowing()
    with pytest.raises(EngineError, match="fp16 with onnxruntime on cuda gives scores that are no finite numbers"):
        yardstick[0].measure(FP16, engine, b"")


class Neighbourly(Overflowing):
    """An engine that rounds the sums of an image run alone differently, as kernels of two libraries do."""

    def __init__(self, touchy: np.ndarray) -> None:
        self.touchy = touchy.tobytes()

    def run(self, images_nhwc: np.ndarray) -> np.ndarray:
        scores = np.full((len(images_nhwc), 3), 0.25, np.float32)
        if images_nhwc.tobytes() == self.touchy:
            scores += np.float32(2**-24)
        return scores


@pytest.mark.parametrize(("way", "threads"), [(FP16, []), (BF16, [1])])
def test_scores_that_depend_on_neighbours_are_not_allowed(
    yardstick: tuple[Yardstick, bytes],
    monkeypatch: pytest.MonkeyPatch,
    way: AllowedPrecision,
    threads: list[int],
) -> None:
    """Even one such image is enough. On a CPU, images are run alone on one thread."""
    stick, graph = yardstick
    *_, (_, images_nhwc) = stick.images.batches()
    tried: list[int] = []

    def open_engine(*_: object, threads: int | None = None) -> Neighbourly:
        tried.extend([threads] if threads else [])
        return Neighbourly(images_nhwc[-1])

    monkeypatch.setattr(precisions, "open_way", open_engine)
    refused = try_way(way, graph, stick, limit=1)
    assert not refused.allowed
    assert tried == threads
    assert refused.reason == f"1 of {len(stick.images)} images got other scores alone than beside others"
    assert refused.measurement is not None  # so 'tandem evaluate' won't retry it, on images that may hide the fault


def test_images_of_all_labels_are_run_alone(
    yardstick: tuple[Yardstick, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation images are sorted by label, so the first ones would not represent the other labels."""
    stick, graph = yardstick
    monkeypatch.setattr(precisions, "RUN_ALONE", 9)
    alone: list[bytes] = []

    class Recording(Overflowing):
        def run(self, images_nhwc: np.ndarray) -> np.ndarray:
            alone.extend(image.tobytes() for image in images_nhwc if len(images_nhwc) == 1)
            return np.full((len(images_nhwc), 3), 0.25, np.float32)

    stick.measure(FP16, Recording(), graph)
    places = {stick.images.pixels(index).tobytes(): index for index in range(len(stick.images))}
    assert [places[image] for image in alone] == [0, 5, 10, 16, 17, 23, 28, 34, 35]
