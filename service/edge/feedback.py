"""`POST /feedback`: the true label of an image that the service has classified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.routing import Route

from classifier.wording import one_line
from service import limits
from service.edge.classify import in_time
from service.edge.refusals import BadRequest, json_response
from service.exchange import REQUEST_ID_PATTERN
from service.limits import Overloaded
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

_MAX_INDEX = 2**31 - 1


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The true label of an image.

    Attributes:
        request_id: the answer's header `X-Request-Id`.
        label: one of the model's labels.
        index: position of the image in a request of several, from 0.
    """

    # `$` alone lets the end of a line pass.
    request_id: Annotated[str, msgspec.Meta(pattern=REQUEST_ID_PATTERN[:-1] + r"\Z")]
    label: str
    index: Annotated[int, msgspec.Meta(ge=0, le=_MAX_INDEX)] = 0


async def feedback(request: Request) -> Response:
    """Answer `POST /feedback` with 202, since the database is written later."""
    serving = Serving.current()
    log = serving.prediction_log
    if log is None:
        message = "this service keeps no prediction log; start it with TANDEM_LOG_URL"
        raise BadRequest(message, reason="no_log", status=404)
    _check_type(request)
    given = parse_feedback(await in_time(_read(request)), serving.model.config.labels)
    if not log.feedback(given.request_id, given.index, given.label):
        raise Overloaded("the prediction log is behind and took no feedback; try again")
    return json_response(given, status=202)


def parse_feedback(body: bytes, labels: Sequence[str]) -> Feedback:
    """Return the feedback that a request's body holds.

    Raises:
        BadRequest: it is not JSON, has a missing, unknown or wrong field, or a label that the model lacks.
    """
    try:
        given = msgspec.convert(_whole_numbers(msgspec.json.decode(body)), Feedback)
    except msgspec.ValidationError as error:
        message = f'send {{"request_id": "…", "label": "…"}} and perhaps "index": {one_line(str(error))}'
        raise BadRequest(message, reason="bad_feedback", status=422) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = 'the body is not JSON; send {"request_id": "…", "label": "…"}'
        raise BadRequest(message, reason="malformed_json") from error
    if given.label not in labels:
        message = "the label is not one of the model's; GET /model lists them"
        raise BadRequest(message, reason="unknown_label", status=422)
    return given


def _check_type(request: Request) -> None:
    # A page of another origin can send every other type without asking, so labels could come from any page.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        message = "send the feedback with 'Content-Type: application/json'"
        raise BadRequest(message, reason="not_json", status=415)


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.MAX_FEEDBACK_BYTES:
            message = f"the body is over {limits.MAX_FEEDBACK_BYTES:,} bytes; send one image's feedback"
            raise BadRequest(message, reason="too_large", status=413)
    return body


def _whole_numbers(given: Any) -> Any:
    """Return `given` with 3 for 3.0, which is an integer in JSON Schema, and so in the OpenAPI document."""
    if isinstance(given, dict) and isinstance(index := given.get("index"), float) and index.is_integer():
        return {**given, "index": int(index)}
    return given


FEEDBACK_ROUTES = [Route("/feedback", feedback, methods=["POST"])]
