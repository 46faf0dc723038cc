"""The service's OpenAPI document, `/docs.json`: every path that the application answers, and no other."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from classifier.answers import DEFAULT_TOP_K, BatchClassification, Classification, ModelDescription, Refusal
from classifier.extras import installed_version
from service import limits
from service.edge.describing import ALWAYS, GUARDED, Described, json_of, operation, reference
from service.edge.guarding import STRANGER
from service.edge.v2.described import MESSAGES, describe_v2, v2_schemas
from service.exchange import REQUEST_ID_PATTERN
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request

_ABOUT = "Classifies images with one model. An answer names the model's digest and the engine that ran it."
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream")
_IMAGE = {"type": "string", "format": "binary", "description": "The bytes of a JPEG, PNG, WebP or BMP file."}
_TOP_K = {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K}
_TOP_K_QUERY = {
    "name": "top_k",
    "in": "query",
    "description": "Number of labels in the answer; all of them if the model has fewer.",
    "schema": _TOP_K,
}
_REFUSALS = (*GUARDED, 413, 415, 422)
_CLASSIFY, _MODEL, _INFRASTRUCTURE = "Classification", "Model", "Infrastructure"
_ANY_OBJECT = {"type": "object"}
_TEXT = {"type": "string"}


async def _docs(request: Request) -> Response:
    """Answer `GET /docs.json`. Who has no key where one is needed sees nothing of the model, as at `/model`."""
    serving = Serving.current()
    is_stranger = request.scope.get(STRANGER, False)
    model, versions = (None, ()) if is_stranger else (serving.description, serving.versions)
    paths: frozenset[str] = request.app.paths
    if serving.prediction_log is None:
        paths -= {"/feedback"}  # nothing but 404 is behind it
    return Response(_encoded(paths, model, versions), media_type="application/json")


@lru_cache(2)  # for those with a key, and for those without
def _encoded(paths: frozenset[str], model: ModelDescription | None, versions: tuple[int, ...]) -> bytes:
    return msgspec.json.encode(openapi(paths, model, versions))


OPENAPI_ROUTES = [Route("/docs.json", _docs)]


def openapi(
    paths: Collection[str] | None = None, model: ModelDescription | None = None, versions: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return the document.

    Args:
        paths: those of the application's routes; None for all that are known here.
        model: the served one; None before a service runs, as in `bentoml build`.
        versions: of the model in the registry.
    """
    described = _describe_ours() | {"/feedback": {"post": _feedback(model)}} | describe_v2(model, versions)
    if paths is not None:
        there = {re.sub(r":\w+}", "}", path) for path in paths}
        described = {path: methods for path, methods in described.items() if path in there}
    if model is not None and not versions:  # nothing but 404 is behind them
        described = {path: methods for path, methods in described.items() if "{version}" not in path}
    types = (BatchClassification, Classification, ModelDescription, Refusal, *MESSAGES)
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Tandem", "description": _ABOUT, "version": installed_version("tandem") or "unknown"},
        "servers": [{"url": "."}],
        "paths": described,
        "components": {
            "schemas": schemas | v2_schemas(model),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Needed only if the service has keys."},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }
    # Only what JSON has: BentoML writes the document as YAML, which would tell tuples from lists.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return plain


def _describe_ours() -> dict[str, Described]:
    ours = {
        "/classify": {"post": _classify("classify", "Classify an image.")},
        "/predict": {"post": _classify("predict", "The same as /classify, by the name that tutorials use.")},
        "/classify_batch": {"post": _classify_batch()},
        "/model": _get(
            "model", "The served model: identity, labels, preprocessing, engine.", _MODEL, "ModelDescription"
        ),
    }
    for path, summary in (
        ("/livez", "Whether the service is alive."),
        ("/healthz", "The same as /livez."),
        ("/readyz", "Whether the service is ready."),
    ):
        ours[path] = {"get": _infrastructure(path, summary, "text/plain", _TEXT)}
    for path, summary, media_type, schema, statuses in (
        ("/metrics", "Prometheus metrics.", "text/plain", _TEXT, (*GUARDED, 403)),
        ("/docs.json", "This document.", "application/json", _ANY_OBJECT, ALWAYS),
        ("/schema.json", "The service as BentoML's clients read it.", "application/json", _ANY_OBJECT, GUARDED),
        ("/", "A page to classify images on.", "text/html", _TEXT, (*ALWAYS, 304)),
        ("/docs", "The page of this document.", "text/html", _TEXT, (*ALWAYS, 304)),
    ):
        ours[path] = {"get": _infrastructure(path, summary, media_type, schema, statuses)}
    return ours


def _classify(name: str, summary: str) -> Described:
    form = {"type": "object", "properties": {"image": _IMAGE, "top_k": _TOP_K}, "required": ["image"]}
    return operation(
        name,
        summary,
        tag=_CLASSIFY,
        answer=json_of(reference("Classification")),
        says="The labels with the highest scores.",
        statuses=_REFUSALS,
        parameters=(_TOP_K_QUERY,),
        body={"multipart/form-data": {"schema": form}, **{name: {"schema": _IMAGE} for name in _IMAGE_TYPES}},
    )


def _classify_batch() -> Described:
    many = {"type": "array", "minItems": 1, "maxItems": limits.MAX_IMAGES}
    form = {
        "type": "object",
        "properties": {"images": many | {"items": _IMAGE}, "top_k": _TOP_K},
        "required": ["images"],
    }
    strings = many | {"items": {"type": "string", "description": "An image's file in base64."}}
    return operation(
        "classify_batch",
        "Classify several images.",
        tag=_CLASSIFY,
        answer=json_of(reference("BatchClassification")),
        says="For each image, in order, the labels with the highest scores, or why it has none.",
        statuses=_REFUSALS,
        parameters=(_TOP_K_QUERY,),
        body={"multipart/form-data": {"schema": form}, **json_of(strings)},
    )


def _feedback(model: ModelDescription | None) -> Described:
    label: Described = {"type": "string"} if model is None else {"type": "string", "enum": list(model.labels)}
    given = {
        "type": "object",
        "properties": {
            "request_id": {
                "type": "string",
                "pattern": REQUEST_ID_PATTERN,
                "description": "The answer's header `X-Request-Id`.",
            },
            "label": label,
            "index": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0},
        },
        "required": ["request_id", "label"],
        "additionalProperties": False,
    }
    return operation(
        "feedback",
        "Tell the prediction log the true label of an image.",
        tag=_CLASSIFY,
        answer=json_of(given),
        success=202,
        says="What was taken; it is written later.",
        statuses=(*GUARDED, 404, 413, 415, 422),
        body=json_of(given),
    )


def _get(name: str, summary: str, tag: str, schema: str) -> Described:
    return {"get": operation(name, summary, tag=tag, answer=json_of(reference(schema)), statuses=GUARDED)}


def _infrastructure(
    path: str, summary: str, media_type: str, schema: Described, statuses: tuple[int, ...] = ALWAYS
) -> Described:
    return operation(
        path.strip("/").replace(".", "_") or "page",
        summary,
        tag=_INFRASTRUCTURE,
        answer={media_type: {"schema": schema}},
        statuses=statuses,
    )
