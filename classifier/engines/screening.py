"""What a graph may hold, checked before an engine opens it: everything that it needs, and nothing that may never end.

A graph is checked against its digest, but ONNX lets it name other files for its weights, which no digest covers;
OpenVINO reads them from the working directory. `Loop` repeats a part of the graph for as long as the graph says, and
functions of the graph's own may call each other without end.

The file is read as protobuf, whose fields are numbered in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only
numbers on the way to nodes and tensors are followed; weights are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDLESS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that repeat a part of the graph. No classifier needs one: `tandem export` makes none."""

MAX_DEPTH = 64
"""Messages inside each other; a graph's subgraph is three messages deeper. Protobuf's own limit is 100."""

# Message → its fields that are messages.
_INSIDE = {
    "Model": {7: "Graph", 20: "Training"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_MODEL_FUNCTIONS = 25
_NODE_OPERATOR = 4
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


def screen_graph(graph: bytes, *, file: str) -> None:
    """Check that an ONNX file needs no other file, and has no operator that may run without end.

    Args:
        graph: the contents of the file.
        file: its name, for messages.

    Raises:
        DamagedArtifact: it does not pass, or is not an ONNX file.
    """
    try:
        fault = next(_faults(memoryview(graph), "Model", depth=0), None)
    except (IndexError, ValueError) as error:
        raise DamagedArtifact(f"{file} can't be opened, because it is not an ONNX file; export it again") from error
    if fault is not None:
        raise DamagedArtifact(f"{file} {fault}; export it again with 'tandem export'")


def _faults(message: memoryview, kind: str, *, depth: int) -> Iterator[str]:
    """Yield what is wrong with a message and those inside it.

    Raises:
        IndexError, ValueError: it is malformed.
    """
    if depth > MAX_DEPTH:
        raise ValueError("messages are nested too deeply")
    for number, value in _fields(message):
        if kind == "Model" and number == _MODEL_FUNCTIONS:
            yield "has functions of its own, whose expansion may never end"
        inside = _INSIDE[kind].get(number)
        if inside is not None:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of {kind} is not a message")
            yield from _faults(value, inside, depth=depth + 1)
        elif kind == "Node" and number == _NODE_OPERATOR and isinstance(value, memoryview):
            if (operator := bytes(value).decode(errors="replace")) in ENDLESS:
                yield f"has the operator {operator}, which may run without end"
        elif kind == "Tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)):
            yield "keeps weights in another file, which its digest does not cover"


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field: https://protobuf.dev/programming-guides/encoding/.

    Raises:
        IndexError, ValueError: the message is malformed.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | memoryview
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
            case 1 | 5 as width:
                length = 8 if width == 1 else 4
                value, position = message[position : position + length], position + length
            case 2:
                length, position = _varint(message, position)
                value, position = message[position : position + length], position + length
            case other:  # groups, which ONNX has never had
                raise ValueError(f"fields of type {other} are not part of ONNX")
        if position > len(message):
            raise ValueError("the file is cut short")
        yield tag >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number of up to ten bytes at `position`, and the position after it."""
    number = 0
    for index in range(10):
        byte = message[position + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, position + index + 1
    raise ValueError("a number has over ten bytes")
