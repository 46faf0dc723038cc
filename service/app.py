"""The BentoML service object, with the endpoints of `service.http` and an OpenAPI document that tells of them."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import attrs
import bentoml
import msgspec
from bentoml._internal.service.openapi.specification import PathItem
from starlette.exceptions import HTTPException

from service.answers import Classification, ModelDescription, Refusal
from service.http import ROUTES, refuse
from service.uploads import DEFAULT_TOP_K

_SCHEMA = "#/components/schemas/{name}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "How many labels to answer; all of them where there are fewer.",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
}
_REFUSALS = {
    400: "The form is malformed, or the image truncated or corrupt.",
    408: "The body has not come in time.",
    413: "The body or the image is too large.",
    415: "The bytes are not an image of an accepted format.",
    422: "top_k is no number of labels.",
    500: "The service failed.",
    503: "Too many requests are waiting, or have waited too long: try again after `Retry-After` seconds.",
}


class ClassifierService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's service, answering `POST /classify` and `GET /model` itself."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return BentoML's Starlette application with our routes before its own."""
        app = super().to_asgi(is_main=is_main)
        app.router.routes[:0] = ROUTES  # before BentoML's: it has a /classify, too
        app.add_exception_handler(HTTPException, refuse)
        return app

    @property
    def openapi_spec(self) -> Any:
        """BentoML's OpenAPI document, completed by what it can't know of our routes."""
        document = super().openapi_spec
        _, schemas = msgspec.json.schema_components([Classification, ModelDescription, Refusal], ref_template=_SCHEMA)
        document.components["schemas"] |= schemas
        # Nothing refers to it, and its type `file` is not of OpenAPI.
        del document.components["schemas"]["classify__Input"]
        operation = document.paths["/classify"].post
        operation["requestBody"]["required"] = True
        operation["requestBody"]["content"] |= {"image/*": _BINARY, "application/octet-stream": _BINARY}
        operation["parameters"] = [_TOP_K]
        refusals = {status: _answer("Refusal", why) for status, why in _REFUSALS.items()}
        operation["responses"] = {200: _answer("Classification", "The labels with the highest scores."), **refusals}
        model = {
            "tags": operation["tags"],
            "description": "Return what is served: the model's identity, labels, preprocessing and engine.",
            "operationId": f"{self.name}__model",
            "responses": {200: _answer("ModelDescription", "The model.")},
        }
        document.paths["/model"] = PathItem(get=model)
        # 3.1, for `prefixItems` and `null`. The description would be BentoML's advertisement, the contact its makers,
        # and the version "None" where no Bento has one.
        version = document.info.version if self.bento else _version()
        info = attrs.evolve(document.info, description=self.inner.__doc__, contact=None, version=version)
        return attrs.evolve(document, openapi="3.1.0", info=info)


def _version() -> str:
    try:
        return importlib.metadata.version("tandem")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # served from its sources, with only its dependencies installed


def _answer(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _SCHEMA.format(name=schema)}}}
    return {"description": description, "content": content}
