from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.types import Preprocessing
from export.graphs.fp16 import to_fp16
from export.graphs.graph import export_graph, find_head
from tests.export.colours import LABELS, PREPROCESSING
from training.network import build_network

if TYPE_CHECKING:
    from torch import nn

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def scores_of(graph: bytes, images_nhwc: np.ndarray) -> np.ndarray:
    """Return the scores of ONNX Runtime on the CPU, which computes fp16 graphs in fp32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"images": images_nhwc})
    return scores


def test_only_the_network_is_in_fp16(colour_network: nn.Module) -> None:
    before = onnx.load_from_string(export_graph(colour_network, LABELS, PREPROCESSING))
    after = onnx.load_from_string(to_fp16(before.SerializeToString(), size=16, classes=3))
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.metadata_props == before.metadata_props
    inferred = onnx.shape_inference.infer_shapes(after, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    written = {node.op_type: types.get(node.output[0], FLOAT) for node in after.graph.node}
    assert {op for op, type in written.items() if type == HALF} >= {"Conv", "Relu", "Gemm"}
    assert {op for op, type in written.items() if type == FLOAT} >= {"Div", "Sub", "Softmax"}
    # One cast of the pixels, one into fp16, one out of it.
    assert collections.Counter(node.op_type for node in after.graph.node)["Cast"] == 3
    halves = [weight for weight in after.graph.initializer if weight.data_type == HALF]
    assert sum(int(np.prod(weight.dims)) for weight in halves) == sum(
        parameter.numel() for parameter in colour_network.parameters()
    )


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18", "vit_b_16"])
def test_scores_equal_fp32_up_to_rounding(architecture: str) -> None:
    """vit_b_16 also reads the shape of the images."""
    labels = tuple("0123456789")
    size = {"vit_b_16": 32}.get(architecture, 28)
    preprocessing = Preprocessing(resize_size=size, crop_size=size)
    network = build_network(architecture, classes=10, image_size=size).eval()
    graph = export_graph(network, labels, preprocessing)
    half = to_fp16(graph, size=size, classes=10)
    assert len(half) < 0.6 * len(graph)
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    fp32, fp16 = scores_of(graph, images), scores_of(half, images)
    assert fp16.dtype == np.float32
    np.testing.assert_allclose(fp16, fp32, atol=5e-3)


def test_embeddings_stay_fp32_and_equal_them_up_to_rounding(colour_network: nn.Module) -> None:
    graph = export_graph(colour_network, LABELS, PREPROCESSING, head=find_head(colour_network, PREPROCESSING))
    half = to_fp16(graph, size=16, classes=3)
    assert onnx.load_from_string(half).graph.output == onnx.load_from_string(graph).graph.output
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    fp32, fp16 = (OnnxRuntimeEngine(each).embed(images)[1] for each in (graph, half))
    assert fp16.dtype == np.float32
    np.testing.assert_allclose(fp16, fp32, rtol=5e-3, atol=5e-3)


def test_the_same_graph_gives_the_same_bytes(colour_network: nn.Module) -> None:
    graph = export_graph(colour_network, LABELS, PREPROCESSING)
    assert to_fp16(graph, size=16, classes=3) == to_fp16(graph, size=16, classes=3)
