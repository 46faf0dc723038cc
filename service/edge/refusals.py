"""Every refusal of the service, and its form: a status, a reason for programs, a sentence for people."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from classifier.answers import Error, Refusal
from classifier.errors import ImageError, ImageTooLarge, NotAnImage
from service import limits
from service.limits import Overloaded, OverShare

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up. Only metrics and logs see it."""


_MESSAGES = {
    HTTPStatus.NOT_FOUND: "the service has nothing at this path; GET /docs shows what it has",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take this method; the header Allow names those that it takes",
}


class BadRequest(Exception):
    """A request without a usable image or with invalid options.

    Attributes:
        status: the HTTP status of the answer.
        reason: the kind of failure in one word, stable across releases.
        headers: of the answer, beside the usual ones.
    """

    def __init__(
        self, message: str, *, reason: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.headers = headers


def refusal_of(error: Exception) -> BadRequest:
    """Return the refusal that answers a request which ended in `error`. Logs the traceback of a bug."""
    match error:
        case BadRequest():
            return error
        case Overloaded() | OverShare():
            return _refusal_for_now(error)
        case ImageError():
            return BadRequest(str(error), reason=error.reason, status=status_of(error))
        case ClientDisconnect():
            return BadRequest("the client hung up", reason="client_closed", status=CLIENT_CLOSED_REQUEST)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            message = _MESSAGES.get(status, error.detail)
            return BadRequest(message, reason=status.name.lower(), status=status, headers=error.headers)
    # Even a bug gets an answer in the usual form; its traceback goes to the log.
    log.error("Could not answer a request", exc_info=error)
    return BadRequest("the service failed; its log says why", reason="internal", status=500)


def is_stopping() -> BadRequest:
    """Return the refusal of what a stopping worker does not answer any more."""
    headers = {"Retry-After": str(limits.RETRY_AFTER_S)}
    return BadRequest("the service is stopping; ask another one", reason="stopping", status=503, headers=headers)


def refuse(refusal: BadRequest, request_id: str, path: str) -> Response:
    """Return the answer for a refusal, in the form that `path` has."""
    answer: Any = Refusal(error=Error(reason=refusal.reason, message=str(refusal), request_id=request_id))
    if path == "/v2" or path.startswith("/v2/"):
        answer = {"error": str(refusal)}  # the Open Inference Protocol's form
    return json_response(answer, status=refusal.status, headers=refusal.headers)


def json_response(answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of `classifier.answers` as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, media_type="application/json")


def _refusal_for_now(error: Overloaded | OverShare) -> BadRequest:
    reason, status = ("overloaded", 503) if isinstance(error, Overloaded) else ("over_share", 429)
    return BadRequest(str(error), reason=reason, status=status, headers={"Retry-After": str(error.retry_after_s)})


def status_of(error: ImageError) -> int:
    """Return the HTTP status of a request whose only image can't be classified."""
    match error:
        case ImageTooLarge():
            return 413
        case NotAnImage():
            return 415
    return 400
