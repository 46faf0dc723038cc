"""fp32 → int8: static quantisation (QDQ, per channel); the most sensitive layers can stay in fp32."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from classifier.artifact import MODEL, MODEL_INT8
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.runtime import load_runtime
from export.graphs.graph import INPUT, check_graph, embedding_size_in, surroundings
from export.graphs.traces import strip_traces

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

LAYER_TYPES = ("Conv", "Gemm", "MatMul")
"""The layers with nearly all of a network's weights and arithmetic."""

QUANTISED_TYPES = (
    *LAYER_TYPES,
    # Otherwise, these would convert to fp32 and back between two int8 layers.
    *("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat"),
)

_RANKING_IMAGES = 32
"""At most. Ranking runs them once for each layer."""
_BATCH_SIZE = 16


class Quantiser:
    """Makes int8 graphs of one fp32 graph.

    Attributes:
        layers: the names of the layers to quantise, in the graph's order.
    """

    def __init__(self, graph: bytes, calibration_nhwc: NDArray[np.uint8]) -> None:
        """Take a graph of `export_graph`, and training images `[N, H, W, 3]` that show its activations' ranges."""
        self._graph = graph
        self._model = onnx.load_from_string(graph)
        self._calibration_nhwc = calibration_nhwc
        weights = {initializer.name for initializer in self._model.graph.initializer}
        self.layers = tuple(
            node.name for node in self._model.graph.node if node.op_type in LAYER_TYPES and node.input[1] in weights
        )
        self._quantised: dict[bool, onnx.ModelProto] = {}
        self._ranges: bytes | None = None

    def quantise(self, *, float_layers: Collection[str] = (), reduce_range: bool = True) -> bytes:
        """Return the graph in int8, with `float_layers` in fp32; the same arguments give the same bytes.

        With `reduce_range`, weights have 7 bits. CPUs without VNNI add two products of a weight and an 8-bit
        activation in 16 bits; with 7-bit weights that never overflows: 255 × 64 × 2 < 2¹⁵.
        """
        if reduce_range not in self._quantised:
            self._quantised[reduce_range] = self._quantise_all(reduce_range=reduce_range)
        model = onnx.ModelProto()
        model.CopyFrom(self._quantised[reduce_range])
        if float_layers:
            _leave_float(model, self._model, float_layers)
        strip_traces(model)
        model.metadata_props.extend(self._model.metadata_props)
        classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        check_graph(
            model,
            size=self._calibration_nhwc.shape[1],
            classes=classes,
            embedding_size=embedding_size_in(self._model),
        )
        quantised: bytes = model.SerializeToString(deterministic=True)
        return quantised

    def _quantise_all(self, *, reduce_range: bool) -> onnx.ModelProto:
        load_runtime()  # turns telemetry off, before anything imports ONNX Runtime
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder, _quiet_quantiser():
            source, target, ranges = (Path(folder, name) for name in (MODEL, MODEL_INT8, "ranges.json"))
            source.write_bytes(self._graph)
            if self._ranges is not None:
                ranges.write_bytes(self._ranges)
            quantize_static(
                source,
                target,
                _Batches(self._calibration_nhwc),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED_TYPES),
                # Normalisation and softmax stay exact in fp32.
                nodes_to_exclude=[node.name for node in surroundings(self._model)],
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibration_cache_path=ranges,
                extra_options={
                    # Quantise the inputs of layers, never their outputs. Else Relu would be replaced by the clamping
                    # of a quantiser, which layers left in fp32 bypass; and logits in 256 levels would have ties.
                    "OpTypesToExcludeOutputQuantization": [*LAYER_TYPES, "Add", "ReduceMean"],
                    "ForceQuantizeNoInputCheck": True,
                    "MatMulConstBOnly": True,
                },
            )
            self._ranges = ranges.read_bytes()
            return onnx.load(target)

    def rank_layers(self) -> list[str]:
        """Return the layers, the most sensitive to int8 first.

        Each layer in turn is left in fp32 while all others are quantised; the nearer the scores then are to those in
        fp32, the more sensitive is the layer.
        """
        # Evenly from all images, because they are sorted by label.
        images_nhwc = self._calibration_nhwc[:: -(-len(self._calibration_nhwc) // _RANKING_IMAGES)]
        expected = OnnxRuntimeEngine(self._graph).run(images_nhwc)

        def divergence(layer: str) -> float:
            graph = self.quantise(float_layers=[layer])
            return _divergence(expected, OnnxRuntimeEngine(graph, precision="int8").run(images_nhwc))

        return sorted(self.layers, key=divergence)


def _leave_float(quantised: onnx.ModelProto, original: onnx.ModelProto, layers: Collection[str]) -> None:
    """Connect `layers` to unquantised inputs: their own fp32 weights, and the outputs of the layers before them."""
    writers = {output: node for node in quantised.graph.node for output in node.output}
    originals = {node.name: node for node in original.graph.node if node.name in layers}
    weights = {initializer.name: initializer for initializer in original.graph.initializer}
    for node in quantised.graph.node:
        if node.name not in originals:
            continue
        for index, name in enumerate(node.input):
            dequantise = writers.get(name)
            if dequantise is None or dequantise.op_type != "DequantizeLinear":
                continue
            if (quantise := writers.get(dequantise.input[0])) is not None:
                node.input[index] = quantise.input[0]
                continue
            # Under a new name, because the node that dequantises a bias writes to the bias's own name.
            weight = quantised.graph.initializer.add()
            weight.CopyFrom(weights[originals[node.name].input[index]])
            weight.name = node.input[index] = f"{weight.name}_fp32"
    # A ReduceMean after one of these layers reads its fp32 output too; only int8 layers need the quantised one.
    for node in quantised.graph.node:
        if node.op_type == "ReduceMean" and (quantise := _quantiser_before(node, writers)) is not None:
            layer = writers.get(quantise.input[0])
            while layer is not None and layer.op_type not in LAYER_TYPES and len(layer.input) == 1:
                layer = writers.get(layer.input[0])
            if layer is not None and layer.name in originals:
                node.input[0] = quantise.input[0]
    _remove_unused(quantised)


def _quantiser_before(node: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that quantises the first input of `node`; None if that input is not quantised."""
    dequantise = writers.get(node.input[0])
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return None
    return writers.get(dequantise.input[0])


def _remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and weights that no output depends on."""
    used = {output.name for output in model.graph.output}
    for node in reversed(list(model.graph.node)):  # sorted: a node comes after those it reads from
        if used.intersection(node.output):
            used.update(node.input)
        else:
            model.graph.node.remove(node)
    for weight in [weight for weight in model.graph.initializer if weight.name not in used]:
        model.graph.initializer.remove(weight)


class _Batches:
    """What ONNX Runtime's quantiser reads: a `CalibrationDataReader`, whose class is not imported so early."""

    def __init__(self, images_nhwc: NDArray[np.uint8]) -> None:
        starts = range(0, len(images_nhwc), _BATCH_SIZE)
        self._batches = iter([images_nhwc[start : start + _BATCH_SIZE] for start in starts])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _divergence(expected: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Return the mean Kullback–Leibler divergence of `scores` from `expected`, both probabilities `[N, classes]`."""
    tiny = np.finfo(np.float32).tiny
    p, q = (np.maximum(each.astype(np.float64), tiny) for each in (expected, scores))
    return float((p * np.log(p / q)).sum(axis=1).mean())


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Suppress advice that ONNX Runtime's quantiser logs to the root logger; torch's exporter already follows it."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
