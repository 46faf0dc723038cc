"""The endpoints `/classify`, `/predict`, `/classify_batch` and `/model`. `refusals` answers what they raise."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio
from starlette.routing import Route

from classifier.answers import BatchClassification, BatchItem, Classification, Error
from classifier.errors import ImageError
from service import limits
from service.edge.batches import read_batch
from service.edge.refusals import BadRequest, json_response, status_of
from service.edge.uploads import read_upload
from service.exchange import Exchange, Outcome
from service.limits import Overloaded
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.responses import Response

    from classifier.types import Prediction

_T = TypeVar("_T")

Image: TypeAlias = "bytes | NDArray[np.uint8] | ImageError"
"""An encoded image, or pixels `[H, W, 3]` that are ready for the engine, or why there is neither."""


async def classify(request: Request) -> Response:
    """Answer `POST /classify`."""
    serving = Serving.current()
    exchange = Exchange.of(request)
    serving.admission.check(exchange.source)
    with serving.buffer.body(exchange.source) as reserve:
        upload = await in_time(read_upload(request, reserve))
        with serving.admission.request(exchange.source):
            predictions = await classify_image(serving, upload.image, upload.top_k, exchange)
    model = serving.model
    answer = Classification(
        predictions=predictions, model=model.identity, digest=model.digest, engine=model.engine.info
    )
    return json_response(answer)


async def predict(request: Request) -> Response:
    """Answer `POST /predict` as `/classify`, for people who come from a tutorial."""
    return await classify(request)


async def classify_batch(request: Request) -> Response:
    """Answer `POST /classify_batch`."""
    serving = Serving.current()
    exchange = Exchange.of(request)
    serving.admission.check(exchange.source)
    with serving.buffer.body(exchange.source) as reserve:
        batch = await in_time(read_batch(request, reserve))
        with serving.admission.request(exchange.source):
            results = await classify_images(serving, batch.images, batch.top_k, exchange)
    model = serving.model
    answer = BatchClassification(
        results=tuple(
            BatchItem(error=Error(reason=found.reason, message=str(found)))
            if isinstance(found, ImageError)
            else BatchItem(predictions=found)
            for found in results
        ),
        model=model.identity,
        digest=model.digest,
        engine=model.engine.info,
    )
    return json_response(answer)


async def classify_images(
    serving: Serving, images: Sequence[Image], top_k: int, exchange: Exchange
) -> list[tuple[Prediction, ...] | ImageError]:
    """Return the predictions for each image, or its error, in order.

    Raises:
        Overloaded: they would take too long.
    """
    # A few at a time, so that the images of other requests come in between.
    window = asyncio.Semaphore(serving.scorer.busy_size)

    async def classify_one(index: int, image: Image) -> tuple[Prediction, ...] | ImageError:
        async with window:
            try:
                return await classify_image(serving, image, top_k, exchange, index)
            except ImageError as error:
                return error

    tasks = [asyncio.create_task(classify_one(*numbered)) for numbered in enumerate(images)]
    try:
        with anyio.move_on_after(limits.BATCH_WITHIN_S):
            return await asyncio.gather(*tasks)
        raise Overloaded(f"the images took longer than {limits.BATCH_WITHIN_S} s; send fewer at once")
    finally:
        for task in tasks:
            task.cancel()


async def classify_image(
    serving: Serving, image: Image, top_k: int, exchange: Exchange, index: int = 0
) -> tuple[Prediction, ...]:
    """Return the predictions for an image, and note in `exchange` what became of it.

    `index` is its place in the request.

    Raises:
        ImageError: the image can't be classified.
        Overloaded: it would wait too long.
    """
    size, sha256 = 0, None
    try:
        match image:
            case ImageError():
                raise image
            case bytes():
                size, sha256 = len(image), await serving.sha256_of(image)
                scored = await serving.scorer.score_image(image, sha256=sha256)
            case _:
                size = image.nbytes
                scored = await serving.scorer.score(lambda: image)
        predictions = serving.model.top_k(scored.scores, top_k)
    except ImageError as error:
        refused = Outcome(index=index, size_bytes=size, sha256=sha256, status=status_of(error), reason=error.reason)
        exchange.outcomes.append(refused)
        raise
    found = Outcome(index=index, size_bytes=size, sha256=sha256, scored=scored, predictions=predictions)
    exchange.outcomes.append(found)
    return predictions


async def describe_model(_: Request) -> Response:
    """Answer `GET /model`."""
    return json_response(Serving.current().description)


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
