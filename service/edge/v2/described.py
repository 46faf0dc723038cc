"""The Open Inference Protocol in the service's OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service import limits
from service.edge.describing import ALWAYS, GUARDED, Described, json_of, operation, reference
from service.edge.v2.messages import (
    InferResponse,
    ModelMetadata,
    ModelReady,
    RepositoryModel,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.edge.v2.requests import HEADER_LENGTH, LABELS, SCORES
from service.edge.v2.tensors import IMAGE, PIXELS

if TYPE_CHECKING:
    from classifier.answers import ModelDescription

MESSAGES = (InferResponse, ModelMetadata, ModelReady, RepositoryModel, ServerLive, ServerMetadata, ServerReady)
"""Types that are schemas of the document."""

ERROR = "ProtocolError"
_TAG = "Open Inference Protocol v2"
_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "The length of the JSON, if binary tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}


def describe_v2(model: ModelDescription | None, versions: tuple[int, ...]) -> dict[str, Described]:
    """Return the paths under /v2, for the served model; None if it is not known yet."""
    name = _parameter("name", None if model is None else [model.name])
    version = _parameter("version", [str(each) for each in versions] or None)
    paths = {
        "/v2": _get("v2", "The server and its extensions.", "ServerMetadata"),
        "/v2/health/live": _get("v2_live", "Whether the server is alive.", "ServerLive", guarded=False),
        "/v2/health/ready": _get("v2_ready", "Whether its model is ready.", "ServerReady", guarded=False),
        "/v2/repository/index": {
            "post": operation(
                "v2_index",
                "The served model.",
                tag=_TAG,
                answer=json_of({"type": "array", "items": reference("RepositoryModel")}),
                statuses=(*GUARDED, 415),
                refusal=ERROR,
            )
        },
    }
    for path, suffix, parameters in (
        ("/v2/models/{name}", "", (name,)),
        ("/v2/models/{name}/versions/{version}", "_version", (name, version)),
    ):
        paths[path] = _get("v2_model" + suffix, "The model's inputs and outputs.", "ModelMetadata", *parameters)
        paths[path + "/ready"] = _get(
            "v2_model_ready" + suffix, "Whether the model is ready.", "ModelReady", *parameters
        )
        paths[path + "/infer"] = {"post": _infer("v2_infer" + suffix, parameters)}
    return paths


def v2_schemas(model: ModelDescription | None) -> dict[str, Described]:
    """Return the schemas of what clients send, and of errors."""
    count = {"type": "integer", "minimum": 1, "maximum": limits.MAX_IMAGES}
    return {
        ERROR: _object({"error": {"type": "string"}}, "error", description="A refusal in the protocol's form."),
        "ImageTensor": _image_tensor(count),
        "PixelTensor": _pixel_tensor(count, None if model is None else model.preprocessing.crop_size),
        "InferRequest": _infer_request(),
    }


def _image_tensor(count: Described) -> Described:
    base64 = {"type": "string", "format": "byte", "contentEncoding": "base64"}
    return _object(
        {
            "name": {"const": IMAGE},
            "datatype": {"const": "BYTES"},
            "shape": {"type": "array", "prefixItems": [count, {"const": 1}], "minItems": 1, "maxItems": 2},
            "parameters": _object({"content_type": {"const": "base64"}}, "content_type", closed=True),
            "data": {"anyOf": [_list(base64), _list(_list(base64, 1))]},
        },
        *("name", "datatype", "shape", "parameters", "data"),
        description="Encoded images: JPEG, PNG, WebP or BMP. `shape` is their number.",
    )


def _pixel_tensor(count: Described, crop: int | None) -> Described:
    side: Described = {"type": "integer", "minimum": 1} if crop is None else {"const": crop}
    level = {"type": "integer", "minimum": 0, "maximum": 255}
    return _object(
        {
            "name": {"const": PIXELS},
            "datatype": {"const": "UINT8"},
            "shape": _tuple([count, side, side, {"const": 3}]),
            "parameters": _object({}, closed=True),
            "data": {"anyOf": [_list(level), _list(_list(_list(_list(level, 3), crop), crop))]},
        },
        *("name", "datatype", "shape", "data"),
        description="Pixels that the engine takes as they are: RGB, row-major, flat or nested.",
    )


def _infer_request() -> Described:
    wanted = [_wanted(SCORES, {"classification": {"type": "integer", "minimum": 1}}), _wanted(LABELS, {})]
    one = {"type": "array", "items": {"anyOf": wanted}, "maxItems": 1}
    tensors = [reference("ImageTensor"), reference("PixelTensor")]
    return _object(
        {
            "id": {"type": "string"},
            "parameters": _object({"binary_data_output": {"type": "boolean"}}, closed=True),
            "inputs": {"type": "array", "items": {"anyOf": tensors}, "minItems": 1, "maxItems": 1},
            "outputs": {"anyOf": [one, _tuple(wanted), _tuple(wanted[::-1])]},
        },
        "inputs",
        description="One input, `image` or `pixels`, and the outputs that are wanted; all if none is named.",
    )


def _get(name: str, summary: str, schema: str, *parameters: Described, guarded: bool = True) -> Described:
    statuses = GUARDED if guarded else ALWAYS
    if parameters:
        statuses = (*statuses, 404)
    return {
        "get": operation(
            name,
            summary,
            tag=_TAG,
            answer=json_of(reference(schema)),
            statuses=statuses,
            refusal=ERROR,
            parameters=parameters,
        )
    }


def _infer(name: str, parameters: tuple[Described, ...]) -> Described:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return operation(
        name,
        "Classify images: JSON, or JSON with binary tensors after it.",
        tag=_TAG,
        answer=json_of(reference("InferResponse")) | {"application/octet-stream": binary},
        says="The outputs: JSON, with binary tensors after it if they were asked for.",
        headers={HEADER_LENGTH: {"description": _LENGTH["description"], "schema": {"type": "integer", "minimum": 2}}},
        statuses=(*GUARDED, 404, 413, 415),
        refusal=ERROR,
        parameters=(*parameters, _LENGTH),
        body=json_of(reference("InferRequest")) | {"application/octet-stream": binary},
    )


def _parameter(name: str, values: list[str] | None) -> Described:
    schema: Described = {"type": "string", "minLength": 1} if values is None else {"type": "string", "enum": values}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _object(properties: Described, *required: str, closed: bool = False, description: str = "") -> Described:
    described: Described = {"type": "object", "properties": properties, "required": list(required)}
    if closed:
        described["additionalProperties"] = False
    if description:
        described["description"] = description
    return described


def _wanted(name: str, parameters: Described) -> Described:
    flags = {"binary_data": {"type": "boolean"}, **parameters}
    return _object({"name": {"const": name}, "parameters": _object(flags, closed=True)}, "name")


def _tuple(items: list[Described]) -> Described:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _list(items: Described, length: int | None = None) -> Described:
    sizes = {"minItems": 1} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **sizes}
