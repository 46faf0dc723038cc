"""Read the body of an inference request: JSON, and binary tensors after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec

from service import limits
from service.edge.refusals import BadRequest
from service.edge.uploads import bounded_stream, bytes_of_texts, has_more_strings
from service.edge.v2.messages import InferRequest
from service.edge.v2.tensors import (
    IMAGE,
    PIXELS,
    bad_tensor,
    bytes_to_read,
    check_tensor,
    images_from_binary,
    images_from_json,
    pixels_from_binary,
    pixels_from_json,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from service.edge.classify import Image
    from service.edge.v2.messages import InputTensor, Parameters
    from service.edge.v2.tensors import Tensor

HEADER_LENGTH = "inference-header-content-length"
SCORES, LABELS = "scores", "labels"
_DECODER = msgspec.json.Decoder(InferRequest)
_MAX_OTHER_STRINGS = 500
"""Strings in the JSON of a request, beside its images: names, parameters and their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An output that was asked for.

    Attributes:
        binary: whether it follows the JSON as binary data.
        classes: how many classes, in Triton's form, take the place of the scores; None for the scores.
    """

    name: str
    binary: bool
    classes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What a client asked for."""

    id: str | msgspec.UnsetType
    images: Sequence[Image]
    outputs: Sequence[Wanted]


async def read_inference(request: Request, reserve: Callable[[int], None], crop_size: int) -> Inference:
    """Return what `request` asks for. Calls `reserve` with the bytes that it takes, before it takes them.

    Raises:
        BadRequest: the request is malformed, or asks for what the model can't give.
        ImageTooLarge: the body is over the limit. The rest of it is not read.
    """
    body = b"".join([chunk async for chunk in bounded_stream(request, reserve)])
    json_size = _json_size(request, len(body))
    head = body if json_size is None else body[:json_size]
    if has_more_strings(head, limits.MAX_IMAGES + _MAX_OTHER_STRINGS):
        raise bad_tensor(
            f"the request has too many strings; send at most {limits.MAX_IMAGES} images, and no more outputs and "
            "parameters than it needs",
            "malformed_request",
        )
    reserve(bytes_of_texts(head))
    message = _parse(head)
    outputs = _outputs(message)
    sent = _only_input(message)
    tensor = check_tensor(sent, crop_size)
    data = _data_of(sent, None if json_size is None else memoryview(body)[json_size:])
    reserve(bytes_to_read(tensor, data))
    # In a thread, so that other requests are answered between two images.
    images = await anyio.to_thread.run_sync(_images, tensor, data)
    return Inference(id=message.id, images=images, outputs=outputs)


def _json_size(request: Request, size: int) -> int | None:
    """Return the length of the JSON before the binary data; None if the whole body is JSON."""
    declared = request.headers.get(HEADER_LENGTH)
    if declared is None:
        return None
    # int() alone would accept '1_0', ' 7' and '+7', and raises above 4,300 digits.
    if not (declared.isascii() and declared.isdecimal() and len(declared) < 20 and int(declared) <= size):
        raise BadRequest(
            f"the header Inference-Header-Content-Length is '{declared[:50]}'; it is the length of the JSON, at most "
            f"the body's {size:,} bytes",
            reason="bad_header_length",
        )
    return int(declared)


def _parse(data: bytes) -> InferRequest:
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the body is not an inference request ({error}); a body with binary tensors needs the header "
            "Inference-Header-Content-Length",
            reason="malformed_request",
        ) from error


def _only_input(message: InferRequest) -> InputTensor:
    if len(message.inputs) != 1:
        raise bad_tensor(
            f"the request has {len(message.inputs)} inputs; send one, '{IMAGE}' or '{PIXELS}'", "bad_inputs"
        )
    return message.inputs[0]


def _data_of(tensor: InputTensor, binary: memoryview | None) -> msgspec.Raw | memoryview:
    """Return the data of the only input: JSON, or binary data."""
    known = ("binary_data_size", "content_type") if tensor.name == IMAGE else ("binary_data_size",)
    _check_parameters(tensor.parameters, f"the input '{tensor.name}'", known)
    size, data = tensor.parameters.get("binary_data_size"), tensor.data
    if (size is None) == isinstance(data, msgspec.UnsetType):
        both = "neither" if size is None else "both"
        raise bad_tensor(
            f"the input '{tensor.name}' has {both} data and a binary_data_size; send one of them", "bad_data"
        )
    if isinstance(data, msgspec.Raw):
        if binary:
            raise bad_tensor(f"{len(binary):,} bytes of binary data belong to no input", "bad_size")
        return data
    if binary is None:
        raise bad_tensor(
            "a body with binary tensors needs the header Inference-Header-Content-Length, the length of its JSON",
            "bad_header_length",
        )
    if "content_type" in tensor.parameters:
        raise bad_tensor("content_type is a parameter of JSON data; leave it out with binary data", "bad_parameter")
    if whole(size) != len(binary):
        raise bad_tensor(
            f"the input '{tensor.name}' has binary_data_size {size}, but {len(binary):,} bytes follow the JSON",
            "bad_size",
        )
    return binary


def _images(tensor: Tensor, data: msgspec.Raw | memoryview) -> Sequence[Image]:
    if isinstance(data, memoryview):
        return images_from_binary(tensor, data) if tensor.name == IMAGE else pixels_from_binary(tensor, data)
    return images_from_json(tensor, data) if tensor.name == IMAGE else pixels_from_json(tensor, data)


def _outputs(message: InferRequest) -> list[Wanted]:
    _check_parameters(message.parameters, "the request", ("binary_data_output",))
    binary = _flag(message.parameters, "binary_data_output", default=False)
    if not message.outputs:
        return [Wanted(name=name, binary=binary) for name in (SCORES, LABELS)]
    outputs: list[Wanted] = []
    for asked in message.outputs:
        if asked.name not in {SCORES, LABELS}:
            raise bad_tensor(
                f"the model has no output '{asked.name}'; ask for '{SCORES}' or '{LABELS}'", "unknown_output"
            )
        if any(asked.name == other.name for other in outputs):
            raise bad_tensor(f"the request asks for the output '{asked.name}' twice", "bad_outputs")
        known = ("binary_data", "classification") if asked.name == SCORES else ("binary_data",)
        _check_parameters(asked.parameters, f"the output '{asked.name}'", known)
        outputs.append(
            Wanted(
                name=asked.name,
                binary=_flag(asked.parameters, "binary_data", default=binary),
                classes=_classes(asked.parameters),
            )
        )
    return outputs


def _check_parameters(parameters: Parameters, of: str, known: Sequence[str]) -> None:
    for name in parameters:
        if name not in known:
            raise bad_tensor(f"{of} takes no parameter '{name}', only {' and '.join(known)}", "bad_parameter")


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value: Any = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad_tensor(f"the parameter {name} is {value!r}; set it to true or false", "bad_parameter")
    return value


def _classes(parameters: Parameters) -> int | None:
    if "classification" not in parameters:
        return None
    count = whole(parameters["classification"])
    if count is None or count < 1:
        sent = parameters["classification"]
        raise bad_tensor(f"the parameter classification is {sent!r}; set it to 1 or more classes", "bad_parameter")
    return count
