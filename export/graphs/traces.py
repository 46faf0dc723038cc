"""Traces of the exporting machine in a graph: removing them, and checking that none is left."""

from __future__ import annotations

import os
import site
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

_TELLTALE_FIELDS = ("doc_string", "metadata_props")


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove every doc string and every metadata entry from `model`, at every depth.

    torch's exporter writes Python stacks, with paths of this machine, into the metadata of nodes, functions, subgraphs
    and values.
    """
    for message in _messages(model):
        for field in _TELLTALE_FIELDS:
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)


def find_traces(model: onnx.ModelProto) -> list[str]:
    """Return the paths of this machine that occur in `model`, outside its weights."""
    without_weights = onnx.ModelProto()
    without_weights.CopyFrom(model)
    for message in _messages(without_weights):
        if isinstance(message, onnx.TensorProto):
            message.ClearField("raw_data")  # enough random bytes contain any short path
    data = without_weights.SerializeToString()
    return [path for path in _machine_paths() if os.fsencode(path) in data]


def _machine_paths() -> list[str]:
    """Return paths that identify this machine, its user or its installation, and a word in the paths of packages."""
    paths = {
        str(Path.cwd()),
        str(Path(__file__).resolve().parent.parent),
        str(Path(onnx.__file__).parent.parent),
        str(Path("~").expanduser()),
        sys.prefix,
        sys.base_prefix,
        tempfile.gettempdir(),
        *site.getsitepackages(),
    }
    return [*sorted(path for path in paths if len(Path(path).parts) > 1), "site-packages"]


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and every message inside it."""
    yield message
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            continue
        if field.is_repeated:
            for item in getattr(message, field.name):
                yield from _messages(item)
        elif message.HasField(field.name):
            yield from _messages(getattr(message, field.name))
