"""The endpoints of the Open Inference Protocol. `refusals` answers what they raise, in the protocol's form."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
import numpy as np
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route

from classifier.answers import DEFAULT_TOP_K
from classifier.extras import installed_version
from service.edge.classify import admit, score_images
from service.edge.refusals import BadRequest, json_response, refusal_of
from service.edge.v2.answering import answer, outputs_of
from service.edge.v2.messages import (
    ModelMetadata,
    ModelReady,
    RepositoryModel,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.edge.v2.requests import read_inference
from service.edge.v2.tensors import inputs_of
from service.exchange import Exchange
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from service.edge.v2.requests import Inference
    from service.exchange import Outcome


async def describe_server(_: Request) -> Response:
    """Answer `GET /v2`."""
    return json_response(
        ServerMetadata(
            name="tandem",
            version=installed_version("tandem") or "unknown",
            extensions=("binary_tensor_data", "classification", "model_repository"),
        )
    )


async def live(_: Request) -> Response:
    """Answer `GET /v2/health/live`."""
    return json_response(ServerLive(live=True))


async def ready(_: Request) -> Response:
    """Answer `GET /v2/health/ready`: a worker answers nothing before its model is open and self-tested."""
    return json_response(ServerReady(ready=True))


async def describe_served(request: Request) -> Response:
    """Answer `GET /v2/models/{name}`."""
    serving = Serving.current()
    _check_served(request, serving)
    config = serving.model.config
    return json_response(
        ModelMetadata(
            name=serving.model.name,
            versions=tuple(map(str, serving.versions)) or msgspec.UNSET,
            platform="onnx_onnxv1",
            inputs=inputs_of(config.preprocessing.crop_size),
            outputs=outputs_of(config.labels),
        )
    )


async def model_ready(request: Request) -> Response:
    """Answer `GET /v2/models/{name}/ready`."""
    serving = Serving.current()
    _check_served(request, serving)
    return json_response(ModelReady(name=serving.model.name, ready=True))


async def repository_index(_: Request) -> Response:
    """Answer `POST /v2/repository/index` with the served model, whatever the body asks for: it is ready."""
    serving = Serving.current()
    versions = tuple(map(str, serving.versions)) or (msgspec.UNSET,)
    return json_response(
        [RepositoryModel(name=serving.model.name, version=version, state="READY", reason="") for version in versions]
    )


async def infer(request: Request) -> Response:
    """Answer `POST /v2/models/{name}/infer`."""
    serving = Serving.current()
    version = _check_served(request, serving)
    read = partial(read_inference, crop_size=serving.model.config.preprocessing.crop_size)
    inference, outcomes = await admit(
        request, read, lambda inference: score_images(serving, inference.images, Exchange.of(request))
    )
    # In a thread: the texts of many classes of many images take a tenth of a second.
    return await anyio.to_thread.run_sync(_answer, serving, inference, outcomes, version)


def _answer(serving: Serving, inference: Inference, outcomes: Sequence[Outcome], version: str | None) -> Response:
    """Return the answer with the scores of all images.

    Raises:
        BadRequest: an image can't be classified. The protocol has no error for one image, so the request fails.
    """
    scores = []
    for outcome in outcomes:
        if outcome.error is not None:
            refusal = refusal_of(outcome.error)
            raise BadRequest(
                f"image {outcome.index} can't be classified ({refusal.reason}): {refusal}",
                reason=refusal.reason,
                status=refusal.status,
            )
        if outcome.scored is not None:
            scores.append(outcome.scored.scores)
            if serving.prediction_log is not None:  # nobody else reads them
                outcome.predictions = serving.model.top_k(outcome.scored.scores, DEFAULT_TOP_K)
    return answer(inference, np.stack(scores), serving.model, version)


def _check_served(request: Request, serving: Serving) -> str | None:
    """Check that the path names the served model; return the version of the answer, None if the model has none.

    Raises:
        BadRequest: it names another.
    """
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != serving.model.name:
        raise _unknown(f"this service has the model '{serving.model.name}', not '{name[:200]}'")
    versions = [str(each) for each in serving.versions]
    if version is not None and version not in versions:
        has = f"as version {' and '.join(versions)}" if versions else "by its digest, without a version"
        raise _unknown(f"this service has the model '{name}' {has}; it has no version '{version[:200]}'")
    return version or next(iter(versions), None)


def _unknown(message: str) -> BadRequest:
    return BadRequest(message, reason="unknown_model", status=404)


class _ModelName(Convertor[str]):
    """The name of a model in a path. One from a remote registry has slashes, which tritonclient doesn't escape."""

    # What belongs to the protocol is not part of a name: GET …/infer is a wrong method, not an unknown model.
    regex = r"(?:(?!/versions/).)+(?<!/infer)(?<!/ready)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())
_MODEL = "/v2/models/{name:model}"
_VERSION = _MODEL + "/versions/{version}"

V2_ROUTES = [
    Route("/v2", describe_server),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route("/v2/repository/index", repository_index, methods=["POST"]),
    Route(_VERSION + "/infer", infer, methods=["POST"]),
    Route(_VERSION + "/ready", model_ready),
    Route(_VERSION, describe_served),
    Route(_MODEL + "/infer", infer, methods=["POST"]),
    Route(_MODEL + "/ready", model_ready),
    Route(_MODEL, describe_served),
]
