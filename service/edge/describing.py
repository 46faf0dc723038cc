"""What the descriptions of all routes in the OpenAPI document are made of."""

from __future__ import annotations

from typing import Any

Described = dict[str, Any]

STATUSES = {
    304: "The copy that the client has is still the newest.",
    400: "The request is not valid HTTP, or its body, an image or a parameter is malformed, truncated or corrupt.",
    401: "The service has keys, and the request has none of them.",
    403: "The metrics are shown to the service's own machine alone.",
    404: "The service has no such model.",
    408: "The request did not arrive in time.",
    413: "The body or an image is too large, or there are too many images.",
    415: "The bytes are not an image in an accepted format; or the body is compressed, or has the wrong type.",
    422: "`top_k` is not a number of labels.",
    429: "This client sends more than its share: try again after `Retry-After` seconds.",
    431: "The head of the request is too large.",
    500: "The service failed; its log says why.",
    503: "Too many requests are waiting, or this one waited too long: try again after `Retry-After` seconds.",
}
ALWAYS = (400, 408, 431, 500, 503)
"""Statuses that any request can get: its connection is bounded before its path is known."""
GUARDED = (*ALWAYS, 401, 429)
"""Statuses of what needs a key, if the service has keys."""

_REQUEST_ID = {
    "description": "The request's, or a new one; as in the service's log.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}


def reference(schema: str) -> Described:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{schema}"}


def json_of(schema: Described) -> Described:
    """Return the content of a body in JSON."""
    return {"application/json": {"schema": schema}}


def operation(
    name: str,
    summary: str,
    *,
    tag: str,
    answer: Described,
    success: int = 200,
    statuses: tuple[int, ...] = ALWAYS,
    refusal: str = "Refusal",
    says: str = "The answer.",
    headers: Described | None = None,
    parameters: tuple[Described, ...] = (),
    body: Described | None = None,
) -> Described:
    """Return the description of one method of one path.

    Args:
        name: unique in the document; client generators name functions by it.
        summary: one line for people.
        tag: what it is listed under.
        answer: its content if all went well.
        success: its status then.
        statuses: of refusals, keys of `STATUSES`.
        refusal: the schema of refusals.
        says: what an answer is.
        headers: of the answer, beside the usual ones.
        parameters: of path, query and header.
        body: the content of the request.
    """
    known = {"X-Request-Id": _REQUEST_ID | {"required": True}, **(headers or {})}
    answered = {"description": says, "headers": known, "content": answer}
    responses = {str(success): answered, **_refusals(statuses, refusal)}
    described: Described = {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
    if parameters:
        described["parameters"] = list(parameters)
    if body is not None:
        described["requestBody"] = {"required": True, "content": body}
    if 401 in statuses:
        described["security"] = [{}, {"bearer": []}, {"key": []}]
    return described


def _refusals(statuses: tuple[int, ...], schema: str) -> Described:
    # Before the path is known, a refusal has another form than under /v2.
    forms = reference("Refusal") if schema == "Refusal" else {"anyOf": [reference(schema), reference("Refusal")]}
    refusals: Described = {}
    for status in sorted(statuses):
        known = {"X-Request-Id": _REQUEST_ID}
        if status in {429, 503}:
            known |= {"Retry-After": _RETRY_AFTER}
        refusals[str(status)] = {"description": STATUSES[status], "headers": known}
        if status != 304:
            refusals[str(status)]["content"] = json_of(forms)
    return refusals
