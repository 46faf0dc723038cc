"""`POST /feedback`: the true label of an image that the service has classified."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import bentoml
import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from classifier.answers import Error, Refusal
from classifier.wording import one_line
from service.limits import BODY_WITHIN_S, RETRY_AFTER_S
from service.log.entry import MAX_REQUEST_ID_CHARS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from service.log.writer import PredictionLog

MAX_FEEDBACK_BYTES = 16 * 2**10
_MAX_INDEX = 2**31 - 1
_CLIENT_CLOSED_REQUEST = 499  # as `service.edge.endpoints`


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The true label of an image.

    Attributes:
        request_id: the answer's header `X-Request-Id`.
        label: one of the model's labels.
        index: position of the image in a request of several, from 0.
    """

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REQUEST_ID_CHARS)]
    label: str
    index: Annotated[int, msgspec.Meta(ge=0, le=_MAX_INDEX)] = 0


class FeedbackRefused(Exception):
    """A request that can't be taken as feedback.

    Attributes:
        status: the HTTP status of the answer.
        reason: the kind of failure in one word, stable across releases.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


async def feedback(request: Request) -> Response:
    """Answer `POST /feedback`: 202, since the database is written later."""
    service: Any = bentoml.get_current_service()
    return await answer_feedback(request, service.prediction_log, service.description.labels)


async def answer_feedback(request: Request, log: PredictionLog | None, labels: Sequence[str]) -> Response:
    """Return the answer of a service that has this log, or none, and whose model has these labels."""
    try:
        if log is None:
            raise FeedbackRefused(404, "no_log", "this service keeps no prediction log; start it with TANDEM_LOG_URL")
        given = parse_feedback(await _read_in_time(request), labels)
        if not log.feedback(given.request_id, given.index, given.label):
            raise FeedbackRefused(503, "overloaded", "the prediction log is behind and took no feedback; try again")
    except FeedbackRefused as error:
        return _refusal(error)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    return Response(msgspec.json.encode(given), HTTPStatus.ACCEPTED, media_type="application/json")


def parse_feedback(body: bytes, labels: Sequence[str]) -> Feedback:
    """Return the feedback that a request's body holds.

    Raises:
        FeedbackRefused: it is not JSON, has a missing, unknown or wrong field, or a label that the model lacks.
    """
    try:
        given = msgspec.json.decode(body, type=Feedback)
    except msgspec.ValidationError as error:
        raise FeedbackRefused(
            422, "bad_feedback", f'send {{"request_id": "…", "label": "…"}} and perhaps "index": {one_line(str(error))}'
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FeedbackRefused(
            400, "malformed_json", 'the body is not JSON; send {"request_id": "…", "label": "…"}'
        ) from error
    if not given.request_id.isprintable():
        raise FeedbackRefused(422, "bad_feedback", "request_id has control characters; send the answer's X-Request-Id")
    if given.label not in labels:
        raise FeedbackRefused(422, "unknown_label", "the label is not one of the model's; GET /model lists them")
    return given


async def _read_in_time(request: Request) -> bytes:
    with anyio.move_on_after(BODY_WITHIN_S):
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FEEDBACK_BYTES:
                raise FeedbackRefused(413, "too_large", f"the body is over {MAX_FEEDBACK_BYTES:,} bytes; send feedback")
        return body
    raise FeedbackRefused(408, "slow_body", f"the body did not arrive within {BODY_WITHIN_S} s; send it at once")


def _refusal(error: FeedbackRefused) -> Response:
    headers = {503: {"Retry-After": str(RETRY_AFTER_S)}, 408: {"Connection": "close"}}.get(error.status)
    refusal = Refusal(error=Error(reason=error.reason, message=str(error)))
    return Response(msgspec.json.encode(refusal), error.status, headers, media_type="application/json")
