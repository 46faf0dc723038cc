"""The endpoints `/classify`, `/predict`, `/classify_batch` and `/model`. `refusals` answers what they raise."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio.to_thread
from starlette.routing import Route

from classifier.answers import BatchClassification, BatchItem, Classification, Error
from classifier.errors import ImageError
from service import limits
from service.edge.batches import read_batch
from service.edge.leaving import ended_if_client_leaves
from service.edge.refusals import BadRequest, json_response, status_of
from service.edge.uploads import Upload, read_upload
from service.exchange import Exchange, Outcome
from service.limits import Overloaded
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.responses import Response

    from classifier.model import Model

_T = TypeVar("_T")
_S = TypeVar("_S")

Image: TypeAlias = "bytes | NDArray[np.uint8] | ImageError"
"""An encoded image, or pixels `[H, W, 3]` that are ready for the engine, or why there is neither."""


async def classify(request: Request) -> Response:
    """Answer `POST /classify`."""
    serving, exchange = Serving.current(), Exchange.of(request)

    async def score(upload: Upload) -> Outcome:
        exchange.sizes = (len(upload.image),)
        [sha256] = await serving.sha256_of((upload.image,))
        return await score_image(serving, upload.image, exchange, sha256=sha256)

    upload, outcome = await admit(request, read_upload, score)
    if outcome.scored is None:
        raise outcome.error or RuntimeError("the image has neither scores nor an error")
    model = serving.model
    outcome.predictions = model.top_k(outcome.scored.scores, upload.top_k)
    answer = Classification(
        predictions=outcome.predictions, model=model.identity, digest=model.digest, engine=model.engine.info
    )
    return json_response(answer)


async def predict(request: Request) -> Response:
    """Answer `POST /predict` as `/classify`, for people who come from a tutorial."""
    return await classify(request)


async def classify_batch(request: Request) -> Response:
    """Answer `POST /classify_batch`."""
    serving, exchange = Serving.current(), Exchange.of(request)
    batch, outcomes = await admit(request, read_batch, lambda batch: score_images(serving, batch.images, exchange))
    # In a thread: a thousand labels of each image take a tenth of a second.
    return await anyio.to_thread.run_sync(_answer_batch, serving.model, outcomes, batch.top_k)


def _answer_batch(model: Model, outcomes: Sequence[Outcome], top_k: int) -> Response:
    results = []
    for outcome in outcomes:
        if outcome.scored is not None:
            outcome.predictions = model.top_k(outcome.scored.scores, top_k)
            results.append(BatchItem(predictions=outcome.predictions))
        elif outcome.error is not None:
            results.append(BatchItem(error=Error(reason=outcome.error.reason, message=str(outcome.error))))
    answer = BatchClassification(
        results=tuple(results), model=model.identity, digest=model.digest, engine=model.engine.info
    )
    return json_response(answer)


async def score_images(serving: Serving, images: Sequence[Image], exchange: Exchange) -> list[Outcome]:
    """Return what became of each image, in order, and note it in `exchange`.

    Raises:
        Overloaded: they would take too long.
    """
    exchange.sizes = [size_of(image) for image in images]
    # All at once: on the event loop, and where a cache has every image, nothing would come in between.
    sha256s = await serving.sha256_of(images)
    # A few at a time, so that the images of other requests come in between.
    window = asyncio.Semaphore(serving.scorer.busy_size)

    async def score_one(index: int, image: Image) -> Outcome:
        async with window:
            return await score_image(serving, image, exchange, index=index, sha256=sha256s[index])

    tasks = [asyncio.create_task(score_one(*numbered)) for numbered in enumerate(images)]
    try:
        with anyio.move_on_after(limits.BATCH_WITHIN_S):
            return await asyncio.gather(*tasks)
        raise Overloaded(f"the images took longer than {limits.BATCH_WITHIN_S} s; send fewer at once")
    finally:
        for task in tasks:
            task.cancel()


async def score_image(
    serving: Serving, image: Image, exchange: Exchange, *, index: int = 0, sha256: bytes | None = None
) -> Outcome:
    """Return what became of an image, and note it in `exchange`: it has scores, or an error of its own.

    `index` is its place in the request, and `sha256` that of an encoded image.

    Raises:
        Overloaded: it would wait too long.
    """
    outcome = Outcome(index=index, size_bytes=size_of(image), sha256=sha256)
    try:
        match image:
            case ImageError():
                raise image
            case bytes():
                outcome.scored = await serving.scorer.score_image(image, sha256=sha256)
            case _:
                outcome.scored = await serving.scorer.score(lambda: image)
    except ImageError as error:
        outcome.error, outcome.status, outcome.reason = error, status_of(error), error.reason
    exchange.outcomes.append(outcome)
    return outcome


def size_of(image: Image) -> int | None:
    """Return the bytes of an image as it was sent; None if it could not be read from the request."""
    if isinstance(image, ImageError):
        return None
    return len(image) if isinstance(image, bytes) else image.nbytes


async def describe_model(_: Request) -> Response:
    """Answer `GET /model`."""
    return json_response(Serving.current().description)


async def admit(
    request: Request,
    read: Callable[[Request, Callable[[int], None]], Awaitable[_T]],
    score: Callable[[_T], Awaitable[_S]],
) -> tuple[_T, _S]:
    """Return what `read` takes from the request's body, and what `score` makes of it, within all limits.

    `read` gets a function that reserves a number of bytes. Raises as both do.

    Raises:
        Overloaded: there is no room for the request or its body.
        OverShare: its client has taken its share.
        BadRequest: the body took too long.
        ClientDisconnect: the client has hung up.
    """
    serving, source = Serving.current(), Exchange.of(request).source
    serving.admission.check(source)
    with serving.buffer.body(source) as reserve:
        sent = await in_time(read(request, reserve))
        with serving.admission.request(source), ended_if_client_leaves(request):
            return sent, await score(sent)


async def in_time(reading: Awaitable[_T]) -> _T:
    """Return what `reading` a body gives.

    Raises:
        BadRequest: it took too long.
    """
    with anyio.move_on_after(limits.BODY_WITHIN_S):
        return await reading
    raise BadRequest(
        f"the body did not arrive within {limits.BODY_WITHIN_S} s; send a smaller image, or over a faster connection",
        reason="slow_body",
        status=HTTPStatus.REQUEST_TIMEOUT,
        headers={"Connection": "close"},  # the rest of the body would follow on it
    )


ROUTES = [
    Route("/classify", classify, methods=["POST"]),
    Route("/predict", predict, methods=["POST"]),
    Route("/classify_batch", classify_batch, methods=["POST"]),
    Route("/model", describe_model),
]
