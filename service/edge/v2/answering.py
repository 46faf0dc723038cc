"""The answer to an inference request: the outputs that were asked for, in JSON or as binary data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from service.edge.refusals import json_response
from service.edge.v2.messages import InferResponse, OutputTensor, TensorMetadata
from service.edge.v2.requests import HEADER_LENGTH, LABELS, SCORES
from service.edge.v2.tensors import encode_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier.model import Model
    from service.edge.v2.messages import Parameters
    from service.edge.v2.requests import Inference, Wanted


def outputs_of(labels: Sequence[str]) -> tuple[TensorMetadata, TensorMetadata]:
    """Return the outputs of a model."""
    return (
        TensorMetadata(name=SCORES, datatype="FP32", shape=(-1, len(labels))),
        TensorMetadata(name=LABELS, datatype="BYTES", shape=(-1,)),
    )


def answer(inference: Inference, scores: NDArray[np.float32], model: Model, version: str | None) -> Response:
    """Return the answer with the scores, float32 `[N, classes]`, of the images in `inference`."""
    outputs, binary = [], []
    for wanted in inference.outputs:
        output, data = _output(wanted, scores, model)
        outputs.append(output)
        binary += data
    message = InferResponse(
        model_name=model.name,
        model_version=version or msgspec.UNSET,
        id=inference.id,
        parameters={"digest": model.digest, "engine": str(model.engine.info)},
        outputs=tuple(outputs),
    )
    if not any(wanted.binary for wanted in inference.outputs):
        return json_response(message)
    head = msgspec.json.encode(message)
    return Response(
        b"".join([head, *binary]), headers={HEADER_LENGTH: str(len(head))}, media_type="application/octet-stream"
    )


def _output(wanted: Wanted, scores: NDArray[np.float32], model: Model) -> tuple[OutputTensor, list[bytes]]:
    """Return the description of an output, and its binary data if it was asked for so."""
    numbers, texts, shape = scores.ravel(), None, scores.shape
    if wanted.name == LABELS:
        texts, shape = [model.config.labels[index] for index in model.best(scores, 1)[:, 0]], scores.shape[:1]
    elif wanted.classes is not None:
        texts = _classifications(scores, wanted.classes, model)
        shape = (len(scores), len(texts) // len(scores))
    datatype = "FP32" if texts is None else "BYTES"
    if not wanted.binary:
        elements: list[float | str] = [*(numbers.tolist() if texts is None else texts)]
        return OutputTensor(name=wanted.name, datatype=datatype, shape=shape, data=elements), []
    data = numbers.astype("<f4").tobytes() if texts is None else encode_bytes([text.encode() for text in texts])
    size: Parameters = {"binary_data_size": len(data)}
    return OutputTensor(name=wanted.name, datatype=datatype, shape=shape, parameters=size), [data]


def _classifications(scores: NDArray[np.float32], classes: int, model: Model) -> list[str]:
    """Return `score:index:label`, Triton's form, of the classes with the highest scores, image after image."""
    # str: the shortest digits that give this float32 again. Triton cuts after six decimals.
    return [
        f"{scores[row, index]!s}:{index}:{model.config.labels[index]}"
        for row, indices in enumerate(model.best(scores, classes).tolist())
        for index in indices
    ]
