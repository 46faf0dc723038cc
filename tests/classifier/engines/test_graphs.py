"""The smallest graph, which `probe` runs, is the one that its comment describes."""

from __future__ import annotations

import pytest

from classifier.engines import graphs, sessions


def test_probe_is_the_graph_that_it_says() -> None:
    """The bytes in the source are Conv and MatMul of one number: they run, and onnx builds the same bytes."""
    sessions.probe("cpu")
    onnx = pytest.importorskip("onnx")
    make, shape = onnx.helper, [1, 1, 1, 1]
    built = make.make_model(
        make.make_graph(
            [make.make_node("Conv", ["x", "x"], ["c"]), make.make_node("MatMul", ["c", "c"], ["y"])],
            "probe",
            [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        ),
        opset_imports=[make.make_opsetid("", 20)],
        ir_version=10,
    )
    assert built.SerializeToString(deterministic=True) == graphs.PROBE
