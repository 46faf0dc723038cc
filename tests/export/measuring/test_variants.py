from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from classifier.artifact import MODEL_FP16, MODEL_INT8
from classifier.errors import ExportRefused
from classifier.hardware import cpu
from export.graphs.graph import export_graph
from export.graphs.int8 import Quantiser
from export.images import LabelledImages
from export.measuring.precisions import WAYS, Yardstick, open_way, ways_of
from export.measuring.variants import make_fp16, make_int8, measure_baseline, measure_fp32_graph
from tests.export.colours import CONFIG, PREPROCESSING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

LIMIT = 0.005

Measure = "Callable[[nn.Module], tuple[bytes, Yardstick]]"


@pytest.fixture
def measured(samples: list[tuple[Path, int]]) -> Callable[[nn.Module], tuple[bytes, Yardstick]]:
    """Return a function that returns a network's graph, and the samples with its fp32 scores."""

    def of(network: nn.Module) -> tuple[bytes, Yardstick]:
        graph = export_graph(network, CONFIG.labels, PREPROCESSING)
        images = LabelledImages(samples, PREPROCESSING)
        engine = open_way(WAYS[0], CONFIG, graph)
        fp32 = np.concatenate([engine.run(pixels) for _, pixels in images.batches()])
        return graph, Yardstick(dataset="colours", images=images, config=CONFIG, fp32=fp32)

    return of


def pixels_of(yardstick: Yardstick) -> np.ndarray:
    return np.concatenate([pixels for _, pixels in yardstick.images.batches()])


def test_int8_without_loss_has_every_layer_quantised_and_runs_on_any_cpu(
    measured: Measure, colour_network: nn.Module
) -> None:
    graph, yardstick = measured(colour_network)
    variant = make_int8(graph, yardstick, limit=LIMIT, calibration_images=lambda: pixels_of(yardstick))
    first = variant.evaluations[0]
    assert (first.allowed, first.needs, first.note) == (True, (), "")
    assert [each.engine for each in variant.evaluations] == [way.engine for way in ways_of(MODEL_INT8)]
    assert variant.graph == Quantiser(graph, pixels_of(yardstick)).quantise(reduce_range=True)


def test_the_sensitive_layer_stays_in_fp32_and_the_note_says_so(
    measured: Measure, sensitive_network: nn.Module
) -> None:
    graph, yardstick = measured(sensitive_network)
    variant = make_int8(graph, yardstick, limit=LIMIT, calibration_images=lambda: pixels_of(yardstick))
    first = variant.evaluations[0]
    assert first.allowed
    assert first.note == "1 of 3 layers in fp32"
    assert first.measurement is not None
    assert first.measurement.metrics.acc1 == 1.0
    assert variant.graph is not None
    int8 = [each for each in onnx.load_from_string(variant.graph).graph.initializer if each.data_type == 3]
    assert len([each for each in int8 if len(each.dims) > 1]) == 2


def test_8_bit_weights_that_replace_7_bit_weights_need_vnni(
    measured: Measure, colour_network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is between the losses of the two."""
    if "vnni" not in cpu().features:
        pytest.skip("this CPU has no VNNI")
    graph, yardstick = measured(colour_network)
    # The test network loses nothing with 7 bits, so that graph is made worse.
    spoiled = copy.deepcopy(colour_network)
    with torch.no_grad():
        spoiled[-1].weight[:] = spoiled[-1].weight[[1, 2, 0]]
    wrong = Quantiser(export_graph(spoiled, CONFIG.labels, PREPROCESSING), pixels_of(yardstick)).quantise()
    quantise = Quantiser.quantise

    def spoil(self: Quantiser, *, reduce_range: bool = True, **options: object) -> bytes:
        return wrong if reduce_range else quantise(self, reduce_range=reduce_range, **options)

    monkeypatch.setattr(Quantiser, "quantise", spoil)
    variant = make_int8(graph, yardstick, limit=LIMIT, calibration_images=lambda: pixels_of(yardstick))
    assert all(each.needs == ("vnni",) for each in variant.evaluations)
    assert variant.evaluations[0].allowed
    assert variant.evaluations[0].way().needs == ("vnni",)


def test_a_limit_that_no_graph_meets_leaves_int8_out_with_a_reason(
    measured: Measure, sensitive_network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.measuring.variants.MAX_FLOAT_PART", 0)
    graph, yardstick = measured(sensitive_network)
    variant = make_int8(graph, yardstick, limit=LIMIT, calibration_images=lambda: pixels_of(yardstick))
    assert variant.graph is None
    by_onnxruntime, by_openvino = variant.evaluations
    assert not by_onnxruntime.allowed
    assert by_onnxruntime.measurement is not None
    assert by_onnxruntime.reason.endswith("points lower, 0.5 are allowed")
    assert by_openvino.reason == "not made: no graph in int8 keeps the limit with onnxruntime"


def test_int8_without_calibration_is_not_made_and_has_a_reason(measured: Measure, colour_network: nn.Module) -> None:
    def too_few() -> np.ndarray:
        raise ExportRefused("int8 needs 64 training images to calibrate on, but there are 20")

    graph, yardstick = measured(colour_network)
    variant = make_int8(graph, yardstick, limit=LIMIT, calibration_images=too_few)
    assert variant.graph is None
    assert {each.reason for each in variant.evaluations} == {
        "not made: int8 needs 64 training images to calibrate on, but there are 20"
    }


def test_fp16_is_made_but_not_allowed_until_measured(measured: Measure, colour_network: nn.Module) -> None:
    graph, yardstick = measured(colour_network)
    variant = make_fp16(graph, yardstick, limit=LIMIT)
    assert variant.file == MODEL_FP16
    assert variant.graph is not None
    (evaluation,) = variant.evaluations
    assert evaluation.allowed is (evaluation.measurement is not None)


def test_bf16_is_a_way_of_running_the_fp32_graph(measured: Measure, colour_network: nn.Module) -> None:
    graph, yardstick = measured(colour_network)
    baseline = measure_baseline(graph, yardstick, yardstick.fp32, open_way(WAYS[0], CONFIG, graph))
    for precisions in ((), ("bf16", "int8")):
        variant = measure_fp32_graph(graph, yardstick, baseline, precisions=precisions, limit=LIMIT)
        assert variant.graph == graph
        assert [each.precision for each in variant.evaluations] == ["fp32"] * 3 + ["bf16"] * ("bf16" in precisions)
        assert variant.evaluations[0] == baseline
