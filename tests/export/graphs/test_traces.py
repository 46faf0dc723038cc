from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from export.graphs.traces import find_traces, strip_traces

TRACE = f'File "{Path(__file__).resolve()}", line 1, in forward'


def model_with_traces_everywhere() -> onnx.ModelProto:
    """Return a model with the exporter's kind of metadata wherever ONNX allows it."""

    def marked(message: Any) -> Any:
        message.doc_string = TRACE
        message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
        return message

    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return marked(helper.make_tensor_value_info(name, kind, [1]))

    def branch(output: str) -> onnx.GraphProto:
        inner = marked(helper.make_node("Identity", ["x"], [output]))
        return marked(helper.make_graph([inner], output, [], [value(output, TensorProto.FLOAT)]))

    choose = marked(helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")))
    choose.attribute[0].doc_string = TRACE
    body = marked(helper.make_node("Identity", ["p"], ["q"]))
    function = marked(helper.make_function("local", "Same", ["p"], ["q"], [body], [helper.make_opsetid("", 20)]))
    weight = marked(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]))
    inputs = [value("c", TensorProto.BOOL), value("x", TensorProto.FLOAT)]
    graph = marked(helper.make_graph([choose], "main", inputs, [value("y", TensorProto.FLOAT)], [weight]))
    return marked(helper.make_model(graph, functions=[function], opset_imports=[helper.make_opsetid("", 20)]))


def test_strip_removes_stacks_from_nodes_functions_subgraphs_and_values() -> None:
    model = model_with_traces_everywhere()
    assert find_traces(model)
    strip_traces(model)
    assert find_traces(model) == []
    for word in (b"forward", b"stack_trace", b".py"):
        assert word not in model.SerializeToString()
    onnx.checker.check_model(model)


@pytest.mark.parametrize(
    "place", [Path.cwd(), Path.home(), Path(onnx.__file__).parent, Path("lib/site-packages/torch")]
)
def test_a_path_of_this_machine_is_found(place: Path) -> None:
    model = model_with_traces_everywhere()
    strip_traces(model)
    model.graph.node[0].attribute.append(helper.make_attribute("source", f"{place}/net.py"))
    assert find_traces(model)


def test_weights_are_not_mistaken_for_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough random bytes contain every short path by chance."""
    model = model_with_traces_everywhere()
    strip_traces(model)
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    monkeypatch.chdir("/tmp")
    weight.raw_data = b"/tmp"
    assert find_traces(model) == []
