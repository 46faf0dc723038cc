"""Graphs are refused before an engine opens them if they need other files, or may never end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.artifact import MODEL, MODEL_INT8
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.openvino import OpenVinoEngine
from classifier.engines.screening import screen_graph
from classifier.errors import DamagedArtifact

onnx = pytest.importorskip("onnx")
message = pytest.importorskip("google.protobuf.message")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FLOAT, INT64, BOOL, UINT8 = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT64", "BOOL", "UINT8"))
make = onnx.helper


def external(name: str) -> onnx.TensorProto:
    """Return a weight of 192 numbers in the file `weights.bin`."""
    weights = onnx.TensorProto(name=name, data_type=FLOAT, dims=[192], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="weights.bin")
    return weights


def classifier(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = (), functions: tuple = ()) -> bytes:
    """Return a graph of 2 classes for 8 × 8 pixels; `nodes` make `scores` `[N, 2]` of `flat` `[N, 192]`."""
    graph = make.make_graph(
        [
            make.make_node("Cast", ["images"], ["pixels"], to=FLOAT),
            make.make_node("Flatten", ["pixels"], ["flat"]),
            *nodes,
            make.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "classifier",
        [make.make_tensor_value_info("images", UINT8, ["N", 8, 8, 3])],
        [make.make_tensor_value_info("probabilities", FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(np.ones((192, 2), np.float32), "w"), *weights],
    )
    opsets = [make.make_opsetid("", 20), make.make_opsetid("own", 1)]
    model = make.make_model(graph, ir_version=10, opset_imports=opsets, functions=functions)
    return model.SerializeToString()


def body(*nodes: onnx.NodeProto, inputs: tuple[str, ...] = (), weights: tuple[onnx.TensorProto, ...] = ()) -> object:
    """Return a subgraph that makes `out`."""
    taken = [make.make_tensor_value_info(name, FLOAT, None) for name in inputs]
    return make.make_graph(nodes, "body", taken, [make.make_tensor_value_info("out", FLOAT, None)], weights)


def endless_loop() -> onnx.NodeProto:
    """Return a loop that goes on for as long as its condition is true, which it always is."""
    infos = [make.make_tensor_value_info(*info) for info in (("i", INT64, []), ("c", BOOL, []), ("x", FLOAT, None))]
    outs = [make.make_tensor_value_info("c2", BOOL, []), make.make_tensor_value_info("x2", FLOAT, None)]
    nodes = [make.make_node("Identity", ["c"], ["c2"]), make.make_node("Neg", ["x"], ["x2"])]
    return make.make_node("Loop", ["", "", "start"], ["scores"], body=make.make_graph(nodes, "body", infos, outs))


GEMM = make.make_node("MatMul", ["flat", "w"], ["scores"])
START = make.make_node("MatMul", ["flat", "w"], ["start"])
TRUE = make.make_node("Constant", [], ["t"], value=onnx.numpy_helper.from_array(np.array(True)))
ADDED = (make.make_node("Add", ["flat", "e"], ["sum"]), make.make_node("MatMul", ["sum", "w"], ["scores"]))
OWN = make.make_function(
    "own", "Own", ["a"], ["b"], [make.make_node("Own", ["a"], ["b"], domain="own")], [make.make_opsetid("own", 1)]
)
SPARSE = make.make_sparse_tensor(external("v"), onnx.numpy_helper.from_array(np.arange(192), "i"), [192])

REFUSED: dict[str, tuple[bytes, str]] = {
    "an initializer": (classifier(*ADDED, weights=(external("e"),)), "another file"),
    "a constant": (classifier(make.make_node("Constant", [], ["e"], value=external("")), *ADDED), "another file"),
    "a sparse constant": (
        classifier(make.make_node("Constant", [], ["e"], sparse_value=SPARSE), *ADDED),
        "another file",
    ),
    "in a subgraph": (
        classifier(
            TRUE,
            make.make_node(
                "If", ["t"], ["scores"],
                then_branch=body(make.make_node("MatMul", ["flat", "w"], ["out"])),
                else_branch=body(make.make_node("Identity", ["e"], ["out"]), weights=(external("e"),)),
            ),
        ),
        "another file",
    ),
    "an endless loop": (classifier(START, TRUE, endless_loop()), "operator Loop"),
    "a loop in a subgraph": (
        classifier(
            START,
            make.make_node("If", ["t"], ["x"], then_branch=body(endless_loop()), else_branch=body()),
            GEMM,
        ),
        "operator Loop",
    ),
    "a scan": (classifier(make.make_node("Scan", [], [], body=body(), num_scan_inputs=1), GEMM), "operator Scan"),
    "a function of itself": (
        classifier(START, make.make_node("Own", ["start"], ["scores"], domain="own"), functions=(OWN,)),
        "functions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVinoEngine])
def test_a_graph_that_is_refused(
    name: str, engine: Callable[..., object], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that lie ready in the working directory are never read, and nothing is kept in the cache."""
    if engine is OpenVinoEngine:
        pytest.importorskip("openvino")
    (tmp_path / "weights.bin").write_bytes(np.ones(192, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    graph, fact = REFUSED[name]
    started = time.monotonic()
    with pytest.raises(DamagedArtifact, match=rf"^model\.onnx .*{fact}.*; export it again with 'tandem export'$"):
        engine(graph, digest="sha256:1") if engine is OpenVinoEngine else engine(graph)
    assert time.monotonic() - started < 30
    assert not (home / "cache").exists()


def test_other_graphs_pass(digits_files: Mapping[str, bytes]) -> None:
    screen_graph(digits_files[MODEL], file=MODEL)
    screen_graph(digits_files[MODEL_INT8], file=MODEL_INT8)
    screen_graph(classifier(GEMM), file=MODEL)
    assert OnnxRuntimeEngine(classifier(GEMM)).classes == 2


@given(st.data())
def test_any_bytes_are_refused_or_pass(data: st.DataObject) -> None:
    """Whatever onnx reads of damaged bytes, a loop or another file in it is found."""
    graph = bytearray(data.draw(st.sampled_from([case for case, _ in REFUSED.values()])))
    for _ in range(data.draw(st.integers(1, 3))):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    model = onnx.ModelProto()
    try:
        screen_graph(bytes(graph), file=MODEL)
        model.ParseFromString(bytes(graph))
    except (DamagedArtifact, message.DecodeError):
        return
    assert not model.functions
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan"}
    assert not any(weight.external_data or weight.data_location for weight in model.graph.initializer)


def test_a_graph_in_a_graph_without_end() -> None:
    """Deeper than protobuf reads, messages are not followed."""
    graph = b""
    for _ in range(100):
        attribute = b"\x32" + varint(len(graph)) + graph
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
    with pytest.raises(DamagedArtifact, match="not an ONNX file"):
        screen_graph(b"\x3a" + varint(len(graph)) + graph, file=MODEL)


def varint(number: int) -> bytes:
    data = b""
    while number >= 0x80:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])
