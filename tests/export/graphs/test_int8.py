from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.types import Preprocessing
from export.graphs import int8
from export.graphs.graph import export_graph, find_head
from export.graphs.int8 import Quantiser
from export.images import LabelledImages
from tests.export.colours import LABELS, PREPROCESSING
from training.network import SmallCNN

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@pytest.fixture
def pixels(samples: list[tuple[Path, int]]) -> np.ndarray:
    return np.concatenate([images for _, images in LabelledImages(samples, PREPROCESSING).batches()])


@pytest.fixture
def quantiser(colour_network: nn.Module, pixels: np.ndarray) -> Quantiser:
    return Quantiser(export_graph(colour_network, LABELS, PREPROCESSING), pixels)


def weights_of(graph: bytes) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(graph).graph.initializer}


def writer_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = [node for node in model.graph.node if name in node.output]
    return node


def test_scores_are_near_fp32_and_the_description_is_the_same(
    quantiser: Quantiser, colour_network: nn.Module, pixels: np.ndarray
) -> None:
    original = export_graph(colour_network, LABELS, PREPROCESSING)
    quantised = quantiser.quantise()
    fp32, int8 = OnnxRuntimeEngine(original).run(pixels), OnnxRuntimeEngine(quantised).run(pixels)
    assert 0 < np.abs(fp32 - int8).max() < 0.05
    before, after = (onnx.load_from_string(each) for each in (original, quantised))
    assert after.metadata_props == before.metadata_props
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert b"Linear" in quantised
    assert b"/tmp" not in quantised


def test_embeddings_stay_fp32_and_are_near_them(colour_network: nn.Module, pixels: np.ndarray) -> None:
    """Even if the last layer is left in fp32."""
    graph = export_graph(colour_network, LABELS, PREPROCESSING, head=find_head(colour_network, PREPROCESSING))
    quantiser = Quantiser(graph, pixels)
    fp32 = OnnxRuntimeEngine(graph).embed(pixels)[1]
    for quantised in (quantiser.quantise(), quantiser.quantise(float_layers=quantiser.layers[-1:])):
        assert onnx.load_from_string(quantised).graph.output == onnx.load_from_string(graph).graph.output
        int8 = OnnxRuntimeEngine(quantised, precision="int8").embed(pixels)[1]
        assert int8.dtype == np.float32
        assert 0 < np.abs(int8 - fp32).max() < 0.05 * np.abs(fp32).max()


def test_every_layer_has_int8_weights_per_channel_and_pixels_and_logits_stay_fp32(quantiser: Quantiser) -> None:
    assert len(quantiser.layers) == 3
    model = onnx.load_from_string(quantiser.quantise())
    weights = weights_of(model.SerializeToString())
    for node in model.graph.node:
        if node.name in quantiser.layers:
            activation, dequantise = (writer_of(model, name) for name in node.input[:2])
            assert activation.op_type == dequantise.op_type == "DequantizeLinear"
            values, scale = weights[dequantise.input[0]], weights[dequantise.input[1]]
            assert values.dtype == np.int8
            assert scale.size == (values.shape[0] if node.op_type == "Conv" else 3)
    # Normalisation reads no quantised value, and the softmax reads the output of the last layer.
    first = next(node for node in model.graph.node if node.op_type == "Div")
    assert writer_of(model, first.input[0]).op_type == "Cast"
    assert writer_of(model, "logits").op_type == "Gemm"
    assert writer_of(model, "probabilities").input == ["logits"]


def test_7_bit_weights_can_not_overflow_16_bits_but_8_bit_weights_can(quantiser: Quantiser) -> None:
    """Without VNNI, a CPU adds two products of an unsigned and a signed byte in 16 bits."""

    def worst(graph: bytes) -> int:
        int8 = [values for values in weights_of(graph).values() if values.dtype == np.int8 and values.size > 8]
        assert len(int8) == 3
        return 2 * 255 * max(int(np.abs(values.astype(int)).max()) for values in int8)

    assert worst(quantiser.quantise(reduce_range=True)) < 2**15
    assert worst(quantiser.quantise(reduce_range=False)) > 2**15


def test_the_same_arguments_give_the_same_bytes(
    quantiser: Quantiser, colour_network: nn.Module, pixels: np.ndarray
) -> None:
    again = Quantiser(export_graph(colour_network, LABELS, PREPROCESSING), pixels)
    layer = quantiser.layers[1]
    assert again.quantise(float_layers=[layer]) == quantiser.quantise(float_layers=[layer])
    assert again.quantise() == quantiser.quantise()


def test_a_layer_left_in_fp32_has_fp32_weights_and_inputs(sensitive_network: nn.Module, pixels: np.ndarray) -> None:
    """Quantising the previous layer's output destroys its input, so fp32 weights alone would not help."""
    graph = export_graph(sensitive_network, LABELS, PREPROCESSING)
    quantiser = Quantiser(graph, pixels)
    fp32 = OnnxRuntimeEngine(graph).run(pixels)

    def difference(*layers: str) -> float:
        scores = OnnxRuntimeEngine(quantiser.quantise(float_layers=layers)).run(pixels)
        return float(np.abs(scores - fp32).max())

    assert difference() > 0.3
    assert difference(quantiser.layers[1]) < 0.1
    assert difference(*quantiser.layers) < 1e-6
    one = weights_of(quantiser.quantise(float_layers=quantiser.layers[1:2]))
    assert sum(values.dtype == np.int8 and values.size > 8 for values in one.values()) == 2
    assert not any(
        values.dtype == np.int8 for values in weights_of(quantiser.quantise(float_layers=quantiser.layers)).values()
    )


def test_the_most_sensitive_layer_is_ranked_first(sensitive_network: nn.Module, pixels: np.ndarray) -> None:
    quantiser = Quantiser(export_graph(sensitive_network, LABELS, PREPROCESSING), pixels)
    ranked = quantiser.rank_layers()
    assert ranked[0] == quantiser.layers[1]
    assert sorted(ranked) == sorted(quantiser.layers)


def test_layers_are_ranked_on_images_of_all_labels(
    sensitive_network: nn.Module, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibration images are sorted by label, so the first few would not represent the others."""
    seen = []

    class Watched(OnnxRuntimeEngine):
        def run(self, images_nhwc: np.ndarray) -> np.ndarray:
            seen.append(images_nhwc)
            return super().run(images_nhwc)

    monkeypatch.setattr(int8, "OnnxRuntimeEngine", Watched)
    by_label = np.concatenate([np.repeat(pixels[label::3], 3, axis=0) for label in range(3)])
    Quantiser(export_graph(sensitive_network, LABELS, PREPROCESSING), by_label).rank_layers()
    assert len(seen) == 4
    for images_nhwc in seen:
        assert len(images_nhwc) <= 32
        # Images of one label have more of one colour.
        assert set(images_nhwc.mean(axis=(1, 2)).argmax(axis=1)) == {0, 1, 2}


def test_scores_do_not_depend_on_the_batch_whichever_layer_is_fp32() -> None:
    """A convolution without a quantiser after it would run in fp32 kernels, whose sums depend on the batch size."""
    torch.manual_seed(0)
    network = SmallCNN(3).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # like after training
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.1, 1)
    images_nhwc = np.random.default_rng(0).integers(0, 256, (32, 49, 49, 3), dtype=np.uint8)
    preprocessing = Preprocessing(resize_size=49, crop_size=49)
    quantiser = Quantiser(
        export_graph(network, LABELS, preprocessing, head=find_head(network, preprocessing)), images_nhwc
    )
    for float_layers in ([], *([layer] for layer in quantiser.layers)):
        engine = OnnxRuntimeEngine(quantiser.quantise(float_layers=float_layers), precision="int8")
        alone = [engine.embed(image[np.newaxis]) for image in images_nhwc]
        for beside, rows in zip(engine.embed(images_nhwc), zip(*alone, strict=True), strict=True):
            assert np.array_equal(np.concatenate(rows), beside), float_layers
