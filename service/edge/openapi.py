"""The service's OpenAPI document, `/docs.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from bentoml._internal.service.openapi.specification import PathItem

from classifier.answers import Classification, ModelDescription, Refusal
from classifier.extras import installed_version
from service.edge.uploads import DEFAULT_TOP_K

if TYPE_CHECKING:
    import bentoml

_SCHEMA = "#/components/schemas/{name}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "Number of labels in the answer; all of them if the model has fewer.",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
}
_REFUSALS = {
    400: "The form is malformed, or the image is truncated or corrupt.",
    408: "The body did not arrive in time.",
    413: "The body or the image is too large.",
    415: "The bytes are not an image in an accepted format.",
    422: "top_k is not a number of labels.",
    500: "The service failed.",
    503: "Too many requests are waiting, or this one waited too long: try again after `Retry-After` seconds.",
}


def complete(document: Any, service: bentoml.Service[Any]) -> Any:
    """Return BentoML's OpenAPI document of `service`, with the parts of our routes that BentoML can't know."""
    _, schemas = msgspec.json.schema_components([Classification, ModelDescription, Refusal], ref_template=_SCHEMA)
    document.components["schemas"] |= schemas
    # Unused, and its type `file` is not an OpenAPI type.
    del document.components["schemas"]["classify__Input"]
    operation = document.paths["/classify"].post
    operation["requestBody"]["required"] = True
    operation["requestBody"]["content"] |= {"image/*": _BINARY, "application/octet-stream": _BINARY}
    operation["parameters"] = [_TOP_K]
    refusals = {status: _answer("Refusal", why) for status, why in _REFUSALS.items()}
    operation["responses"] = {200: _answer("Classification", "The labels with the highest scores."), **refusals}
    model = {
        "tags": operation["tags"],
        "description": "Return the served model: identity, labels, preprocessing and engine.",
        "operationId": f"{service.name}__model",
        "responses": {200: _answer("ModelDescription", "The model.")},
    }
    document.paths["/model"] = PathItem(get=model)
    # BentoML's defaults: an advertisement as the description, its makers as the contact, and version "None" outside
    # a Bento. The schemas use `prefixItems` and `null`, which came with OpenAPI 3.1.
    version = document.info.version if service.bento else installed_version("tandem") or "unknown"
    info = attrs.evolve(document.info, description=service.inner.__doc__, contact=None, version=version)
    return attrs.evolve(document, openapi="3.1.0", info=info)


def _answer(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _SCHEMA.format(name=schema)}}}
    return {"description": description, "content": content}
