"""A model whose scores are the same bits on every CPU: how much of an image is red, green and blue.

Its graph multiplies and adds whole numbers below 2²⁴, which float32 holds exactly, and divides once, which IEEE 754
rounds in only one way. So its bulk runs write the same bytes on every machine. Those of a trained network don't.

The registry has the layout that the released version wrote. A version that can't read it breaks its users' registries.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.system.released_outputs.images import SIDE, SOUND

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME = "colours"
LABELS = ("red", "green", "blue")
WEIGHTS = np.arange(1, SIDE * SIDE + 1, dtype=np.float32)
"""Of the pixels, all different, so that a wrong rotation or crop changes the scores."""
BIASES = np.array([1000, 2000, 3000], dtype=np.float32)
"""Added to the colours' sums, so that the level of grey changes the scores, and black doesn't divide by 0."""
_FLOAT, _UINT8, _INT64 = 1, 2, 7  # ONNX's element types
_OPSET = 20
_TYPES = {
    "model.onnx": "weight.v1.raw",
    "config.json": "weight.config.v1.raw",
    "evaluation.json": "doc.v1.raw",
    "golden.npz": "dataset.v1.raw",
    "README.md": "doc.v1.raw",
}


def write_registry(home: Path) -> None:
    """Make `home` a TANDEM_HOME that holds the model `colours:1`."""
    blobs = home / "registry" / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **fields}

    model_type = "application/vnd.cncf.model.{}".format
    layers = [
        add(
            data,
            model_type(_TYPES[file]),
            annotations={"org.cncf.model.filepath": file, "org.opencontainers.image.title": file},
        )
        for file, data in _files().items()
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": model_type("manifest.v1+json"),
        "config": add(_json({"descriptor": {"name": NAME}}), model_type("config.v1+json")),
        "layers": layers,
    }
    entry = add(
        _json(manifest),
        manifest["mediaType"],
        annotations={"org.opencontainers.image.ref.name": f"{NAME}:1"},
        artifactType=manifest["artifactType"],
    )
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    (home / "registry" / "index.json").write_bytes(_json(index))
    (home / "registry" / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _files() -> dict[str, bytes]:
    way = {"precision": "fp32", "engine": "onnxruntime", "device": "cpu", "needs": []}
    config = {
        "name": NAME,
        "architecture": "small_cnn",
        "labels": LABELS,
        "preprocessing": {"resize_size": SIDE, "crop_size": SIDE},
        "allowed": [{**way, "graph": "model.onnx"}],
        "opset": _OPSET,
        "embedding_size": len(LABELS),
        "schema_version": 1,
    }
    accuracy = {"acc1": 1.0, "acc5": None}
    evaluation = {
        "dataset": NAME,
        "split": "val",
        "images": len(SOUND),
        "torch": accuracy,
        "max_accuracy_drop": 0.005,
        "precisions": [{**way, "allowed": True, "reason": "", "note": "", "measurement": None}],
    }
    return {
        "model.onnx": _graph(),
        "config.json": _json(config),
        "evaluation.json": _json(evaluation),
        "golden.npz": _golden_set(),
        "README.md": b"# colours\n",
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _golden_set() -> bytes:
    """Return the sound images with their scores. The tolerance is 0: not a bit may differ."""
    images = list(SOUND.values())
    sums = np.array([image.levels for image in images], dtype=np.float32) * WEIGHTS.sum() + BIASES
    arrays = {
        "images": np.frombuffer(b"".join(image.data for image in images), dtype=np.uint8),
        "offsets": np.cumsum([0, *(len(image.data) for image in images)], dtype=np.int64),
        "scores": sums / sums.sum(axis=1, keepdims=True),
        "precisions": np.array(["fp32"], dtype="U16"),
        "tolerances": np.array([0.0]),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return file.getvalue()


def _graph() -> bytes:
    """Return the graph: each colour's sum of weighted pixels and its bias, divided by the sum over all colours."""
    nodes = [
        _node("Cast", ["images"], "numbers", to=_FLOAT),
        _node("Mul", ["numbers", "weights"], "weighted"),
        _node("ReduceSum", ["weighted", "of_pixels"], "embeddings", keepdims=0),
        _node("Add", ["embeddings", "biases"], "sums"),
        _node("ReduceSum", ["sums", "of_colours"], "total", keepdims=1),
        _node("Div", ["sums", "total"], "probabilities"),
    ]
    constants = [
        _tensor("weights", _FLOAT, WEIGHTS.reshape(1, SIDE, SIDE, 1)),
        _tensor("biases", _FLOAT, BIASES),
        _tensor("of_pixels", _INT64, np.array([1, 2])),
        _tensor("of_colours", _INT64, np.array([1])),
    ]
    widths = ("probabilities", "embeddings")
    graph = (
        b"".join(_field(1, node) for node in nodes)
        + _field(2, NAME)
        + b"".join(_field(5, constant) for constant in constants)
        + _field(11, _value("images", _UINT8, "N", SIDE, SIDE, 3))
        + b"".join(_field(12, _value(name, _FLOAT, "N", len(LABELS))) for name in widths)
    )
    return _field(1, 10) + _field(7, graph) + _field(8, _field(2, _OPSET))


# The functions below write Protocol Buffers with the field numbers of onnx.proto: most environments lack onnx.


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> bytes:
    fields = [_field(1, name) for name in inputs] + [_field(2, output), _field(4, operator)]
    fields += [_field(5, _field(1, name) + _field(3, value) + _field(20, 2)) for name, value in attributes.items()]
    return b"".join(fields)


def _tensor(name: str, type: int, values: NDArray[Any]) -> bytes:
    sizes = b"".join(_field(1, size) for size in values.shape)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return sizes + _field(2, type) + _field(8, name) + _field(9, data)


def _value(name: str, type: int, *shape: int | str) -> bytes:
    dimensions = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, type) + _field(2, dimensions)))
