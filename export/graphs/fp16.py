"""fp32 → fp16: the network in half precision; normalisation and softmax stay in fp32."""

from __future__ import annotations

import onnx

from classifier.engines.runtime import load_runtime
from export.graphs.graph import OUTPUTS, check_graph, embedding_size_in, surroundings
from export.graphs.traces import strip_traces


def to_fp16(graph: bytes, *, size: int, classes: int) -> bytes:
    """Return a graph of `export_graph` with weights and arithmetic in fp16; the same graph gives the same bytes.

    Inputs and outputs keep their types; normalisation and softmax stay in fp32.

    Raises:
        ExportRefused: the network has an operation that can't run in fp16.
    """
    model = onnx.load_from_string(graph)
    softmax, *normalising = surroundings(model)
    half = _convert(model, [softmax, *normalising], network_input=normalising[-1].output[0], size=size)
    constants = {name for node in normalising for name in node.input}
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.ClearField("value_info")
    del whole.graph.node[:], whole.graph.initializer[:]
    whole.graph.node.extend([*normalising, *half.graph.node, softmax])
    whole.graph.initializer.extend(constant for constant in model.graph.initializer if constant.name in constants)
    whole.graph.initializer.extend(weight for weight in half.graph.initializer if weight.name not in constants)
    strip_traces(whole)
    whole.metadata_props.extend(model.metadata_props)
    check_graph(whole, size=size, classes=classes, embedding_size=embedding_size_in(model))
    data: bytes = whole.SerializeToString(deterministic=True)
    return data


def _convert(model: onnx.ModelProto, around: list[onnx.NodeProto], *, network_input: str, size: int) -> onnx.ModelProto:
    """Return `model` without the nodes `around` the network, in fp16 between two casts.

    The converter can exclude nodes, but still rounds their constants and results; so these nodes are taken out first.
    """
    load_runtime()  # turns telemetry off, before anything imports ONNX Runtime
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415

    network = onnx.ModelProto()
    network.CopyFrom(model)
    names = {node.name for node in around}
    for node in [node for node in network.graph.node if node.name in names]:
        network.graph.node.remove(node)
    network.graph.input.append(
        onnx.helper.make_tensor_value_info(network_input, onnx.TensorProto.FLOAT, ("N", 3, size, size))
    )
    for output in [output for output in network.graph.output if output.name == OUTPUTS[1]]:
        network.graph.output.remove(output)
    half = OnnxModel(convert_float_to_float16(network, keep_io_types=True))
    half.topological_sort()
    converted: onnx.ModelProto = half.model
    return converted
