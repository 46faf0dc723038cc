"""The HTTP endpoints of the service, as Starlette routes that stand before BentoML's own.

BentoML's endpoints take either a multipart form or a raw body, write each upload to a disk whatever its size, and cost
twice the CPU of these. Its metrics, tracing, access log, timeout and CORS lie around both.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import bentoml
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from classifier.errors import ImageError, ImageTooLarge, NotAnImage
from service.answers import Error, Refusal
from service.uploads import BadRequest, Overloaded, read_upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from service.answers import Classification
    from service.uploads import Upload

log = logging.getLogger("bentoml.tandem")  # under BentoML's, which its servers show from INFO on

MAX_IN_FLIGHT = 128
"""Requests whose image waits or is being classified. One more is refused: waiting longer helps nobody."""
BODY_WITHIN_S = 60
"""A body must have come; until then it takes no place from anybody, only its bytes count."""
START_WITHIN_S = 20
"""An image must have begun to be classified. Both together end before BentoML's own timeout, `traffic` in `service`."""
RETRY_AFTER_S = 1
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for metrics and logs: nobody is there to read it."""


async def classify(request: Request) -> Response:
    """Answer `POST /classify`."""
    service = bentoml.get_current_service()
    try:
        _check_load(service)
        with service.buffer.body() as make_room:
            upload = await _read_in_time(request, make_room)
            return _json(await _classify_in_time(service, upload))
    except BadRequest as error:
        # Of a body that does not come the rest is not waited for.
        headers = {"Connection": "close"} if error.status == HTTPStatus.REQUEST_TIMEOUT else None
        return _refuse(error.status, error.reason, str(error), headers=headers)
    except Overloaded as error:
        return _refuse(503, "overloaded", str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
    except ImageError as error:
        return _refuse(_status_of(error), error.reason, str(error))
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Exception:
        # The edge: whatever went wrong, the client gets an answer of the usual form, and the log what happened.
        log.exception("Could not classify an image")
        return _refuse(500, "internal", "the service failed; its log says why")


def _check_load(service: Any) -> None:
    if service.in_flight >= MAX_IN_FLIGHT:
        raise Overloaded("too many requests are waiting; try again")


async def _read_in_time(request: Request, make_room: Callable[[int], None]) -> Upload:
    with anyio.move_on_after(BODY_WITHIN_S):
        return await read_upload(request, make_room)
    raise BadRequest(
        f"the body has not come within {BODY_WITHIN_S} s; send a smaller image, or over a faster connection",
        reason="slow_body",
        status=HTTPStatus.REQUEST_TIMEOUT,
    )


async def _classify_in_time(service: Any, upload: Upload) -> Classification:
    _check_load(service)
    service.in_flight += 1
    try:
        # What runs in a thread is not interrupted: this ends the wait for one.
        with anyio.move_on_after(START_WITHIN_S):
            answer: Classification = await anyio.to_thread.run_sync(
                service.classify_image, upload.image, upload.top_k, limiter=service.workers
            )
            return answer
        raise Overloaded(f"the images before this one take longer than {START_WITHIN_S} s; try again")
    finally:
        service.in_flight -= 1


async def describe_model(_: Request) -> Response:
    """Answer `GET /model`."""
    return _json(bentoml.get_current_service().description)


async def refuse(_: Request, error: Exception) -> Response:
    """Answer what Starlette refuses, an unknown path or a wrong method, in the form of every other refusal."""
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).name.lower()
    return _refuse(error.status_code, reason, error.detail, headers=error.headers)


ROUTES = [Route("/classify", classify, methods=["POST"]), Route("/model", describe_model)]


def _status_of(error: ImageError) -> int:
    match error:
        case ImageTooLarge():
            return 413
        case NotAnImage():
            return 415
    return 400


def _refuse(status: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return _json(Refusal(error=Error(reason=reason, message=message)), status=status, headers=headers)


def _json(answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, media_type="application/json")
