"""The HTTP endpoints `POST /classify` and `GET /model`, as Starlette routes that come before BentoML's own.

BentoML's endpoints accept either a multipart form or a raw body, not both, write every upload to disk, and cost twice
the CPU time. Its metrics, tracing, access log, timeout and CORS are middleware and also cover these routes.
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

from classifier.answers import Error, Refusal
from classifier.errors import ImageError, ImageTooLarge, NotAnImage
from service import limits
from service.edge.uploads import BadRequest, read_upload
from service.limits import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from classifier.answers import Classification
    from service.edge.uploads import Upload

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up. Only metrics and logs see it."""


async def classify(request: Request) -> Response:
    """Answer `POST /classify`."""
    service = bentoml.get_current_service()
    try:
        _check_in_flight(service)
        with service.buffer.body() as reserve:
            upload = await _read_in_time(request, reserve)
            return _json(await _classify_in_time(service, upload))
    except BadRequest as error:
        # After a timeout, close the connection: the rest of the body would follow on it.
        headers = {"Connection": "close"} if error.status == HTTPStatus.REQUEST_TIMEOUT else None
        return refusal(error.status, error.reason, str(error), headers=headers)
    except Overloaded as error:
        return refusal(503, "overloaded", str(error), headers={"Retry-After": str(limits.RETRY_AFTER_S)})
    except ImageError as error:
        return refusal(_status_of(error), error.reason, str(error))
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Exception:
        # Even a bug gets an answer in the usual form; its traceback goes to the log.
        log.exception("Could not classify an image")
        return refusal(500, "internal", "the service failed; its log says why")


def _check_in_flight(service: Any) -> None:
    if service.in_flight >= limits.MAX_IN_FLIGHT:
        raise Overloaded("too many requests are waiting; try again")


async def _read_in_time(request: Request, reserve: Callable[[int], None]) -> Upload:
    with anyio.move_on_after(limits.BODY_WITHIN_S):
        return await read_upload(request, reserve)
    raise BadRequest(
        f"the body did not arrive within {limits.BODY_WITHIN_S} s; send a smaller image, or over a faster connection",
        reason="slow_body",
        status=HTTPStatus.REQUEST_TIMEOUT,
    )


async def _classify_in_time(service: Any, upload: Upload) -> Classification:
    _check_in_flight(service)  # again: others may have finished their bodies meanwhile
    service.in_flight += 1
    try:
        # This limits the wait for a thread. A thread that has started is never interrupted.
        with anyio.move_on_after(limits.START_WITHIN_S):
            answer: Classification = await anyio.to_thread.run_sync(
                service.classify_image, upload.image, upload.top_k, limiter=service.workers
            )
            return answer
        raise Overloaded(f"the images before this one take longer than {limits.START_WITHIN_S} s; try again")
    finally:
        service.in_flight -= 1


async def describe_model(_: Request) -> Response:
    """Answer `GET /model`."""
    return _json(bentoml.get_current_service().description)


async def refuse(_: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method in the same form as every other refusal."""
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).name.lower()
    return refusal(error.status_code, reason, error.detail, headers=error.headers)


def refusal(status: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return a refusal in the usual form."""
    return _json(Refusal(error=Error(reason=reason, message=message)), status=status, headers=headers)


ROUTES = [Route("/classify", classify, methods=["POST"]), Route("/model", describe_model)]


def _status_of(error: ImageError) -> int:
    match error:
        case ImageTooLarge():
            return 413
        case NotAnImage():
            return 415
    return 400


def _json(answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, media_type="application/json")
