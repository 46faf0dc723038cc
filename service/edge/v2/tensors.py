"""Tensors of the Open Inference Protocol: the images of a request, from JSON or from binary data.

Shapes and sizes are checked before anything is allocated for them.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from service import limits
from service.edge.refusals import BadRequest
from service.edge.uploads import image_in, too_many_images
from service.edge.v2.messages import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier.errors import ImageError
    from service.edge.v2.messages import InputTensor, Parameters

IMAGE, PIXELS = "image", "pixels"
_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH = struct.Struct("<I")
# 7.0 is an integer in JSON, and some clients write it so.
_LEVEL = Annotated[int, msgspec.Meta(ge=0, le=255)] | Annotated[float, msgspec.Meta(ge=0, le=255)]
_TEXTS = msgspec.json.Decoder(list[str])
_NESTED_TEXTS = msgspec.json.Decoder(list[Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]])
_SHAPE = msgspec.json.Decoder(tuple[int | float, ...])
_MAX_SHAPE_BYTES = 1000
_LEVELS = msgspec.json.Decoder(list[_LEVEL])


def inputs_of(crop_size: int) -> tuple[TensorMetadata, TensorMetadata]:
    """Return the inputs of a model, of which a request has one."""
    return (
        TensorMetadata(name=IMAGE, datatype="BYTES", shape=(-1,)),
        TensorMetadata(name=PIXELS, datatype="UINT8", shape=(-1, crop_size, crop_size, 3)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input that the model has: its name, and its shape, whose first number counts the images."""

    name: str
    shape: tuple[int, ...]
    parameters: Parameters


def check_tensor(tensor: InputTensor, crop_size: int) -> Tensor:
    """Return an input with its name, datatype and shape checked.

    Raises:
        BadRequest: the model has no such input, or it has other data; or there are no images or too many.
    """
    known = {each.name: each for each in inputs_of(crop_size)}
    if tensor.name not in known:
        raise bad_tensor(f"the model has no input '{tensor.name}'; send '{IMAGE}' or '{PIXELS}'", "unknown_input")
    expected = known[tensor.name]
    if tensor.datatype != expected.datatype:
        raise bad_tensor(
            f"the input '{tensor.name}' has datatype {tensor.datatype}; send {expected.datatype}", "bad_datatype"
        )
    sent = _shape(tensor)
    shape = tuple(map(whole, sent))
    if tensor.name == IMAGE:
        fits, shapes = shape[1:] in {(), (1,)} and shape != (), "[N] or [N, 1]"
    else:
        fits, shapes = shape[1:] == expected.shape[1:], f"[N, {crop_size}, {crop_size}, 3]"
    if not fits or (count := shape[0]) is None or count < 0:
        raise bad_tensor(f"the input '{tensor.name}' has shape {list(sent)}; send {shapes}", "bad_shape")
    if count == 0:
        raise bad_tensor("the request has no image; send at least one", "no_image")
    if count > limits.MAX_IMAGES:
        raise too_many_images(count)
    return Tensor(name=tensor.name, shape=(count, *expected.shape[1:]), parameters=tensor.parameters)


def images_from_binary(tensor: Tensor, data: memoryview) -> list[bytes]:
    """Return the encoded images in the binary data of the input `image`: each a length and as many bytes.

    Raises:
        BadRequest: the lengths don't add up to the size and the shape.
    """
    images: list[bytes] = []
    start = 0
    for _ in range(tensor.shape[0]):
        end = start + _LENGTH.size
        if end <= len(data):
            start, end = end, end + _LENGTH.unpack_from(data, start)[0]
        if end > len(data):
            raise bad_tensor(
                f"the binary data of '{IMAGE}' ends within element {len(images)} of {tensor.shape[0]}; each is its "
                "length, 4 bytes little-endian, then as many bytes",
                "bad_size",
            )
        images.append(bytes(data[start:end]))
        start = end
    if start != len(data):
        raise bad_tensor(
            f"the binary data of '{IMAGE}' has {len(data) - start:,} bytes after its last element", "bad_size"
        )
    return images


def images_from_json(tensor: Tensor, data: msgspec.Raw) -> list[bytes | ImageError]:
    """Return the encoded images in the JSON data of the input `image`, which are base64; a bad one as its error.

    Raises:
        BadRequest: they are not declared as base64; or they are not strings, or not as many as the shape says.
    """
    if tensor.parameters.get("content_type") != "base64":
        raise bad_tensor(
            f"JSON can't hold the bytes of an image: send '{IMAGE}' as base64, with its parameter content_type set to "
            "base64, or as binary data",
            "not_base64",
        )
    nested = _is_nested(data)  # as [N, 1] is written
    texts = [text for [text] in _decode(_NESTED_TEXTS, data)] if nested else _decode(_TEXTS, data)
    _check_count(IMAGE, len(texts), tensor.shape[0])
    return [image_in(text) for text in texts]


def pixels_from_binary(tensor: Tensor, data: memoryview) -> list[NDArray[np.uint8]]:
    """Return the images, uint8 `[H, W, 3]`, in the binary data of the input `pixels`, without a copy.

    Raises:
        BadRequest: the size is not the shape's.
    """
    size = math.prod(tensor.shape)
    if len(data) != size:
        raise bad_tensor(f"the binary data of '{PIXELS}' has {len(data):,} bytes; its shape needs {size:,}", "bad_size")
    return list(np.frombuffer(data, np.uint8).reshape(tensor.shape))


def pixels_from_json(tensor: Tensor, data: msgspec.Raw) -> list[NDArray[np.uint8]]:
    """Return the images, uint8 `[H, W, 3]`, in the JSON data of the input `pixels`: nested lists or one flat list.

    Raises:
        BadRequest: they are not integers in 0…255, or not as many as the shape says.
    """
    if not _is_nested(data):
        levels = _decode(_LEVELS, data)
        _check_count(PIXELS, len(levels), math.prod(tensor.shape))
        return list(_levels(levels).reshape(tensor.shape))
    nested: Any = _LEVEL
    # Fixed lengths: the decoder stops after the first list that has another.
    for length in reversed(tensor.shape[1:]):
        nested = Annotated[list[nested], msgspec.Meta(min_length=length, max_length=length)]
    images = _decode(msgspec.json.Decoder(list[nested]), data)
    _check_count(PIXELS, len(images), tensor.shape[0])
    return list(_levels(images))


def bytes_to_read(tensor: Tensor, data: msgspec.Raw | memoryview) -> int:
    """Return the most bytes that reading the images of an input takes, beside the body that they are in."""
    size = memoryview(data).nbytes
    if isinstance(data, memoryview):
        return size if tensor.name == IMAGE else 0
    # Text and its bytes; or a list for each 3 levels, a pointer each, and an object for each that is written as `0.0`.
    return 2 * size if tensor.name == IMAGE else 20 * size


def encode_bytes(elements: Sequence[bytes]) -> bytes:
    """Return BYTES elements as binary data."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def whole(number: object) -> int | None:
    """Return an integer that JSON may write as 7 or 7.0; None for anything else."""
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return number if type(number) is int else None


def bad_tensor(message: str, reason: str) -> BadRequest:
    """Return the refusal, 400, of a tensor."""
    return BadRequest(message, reason=reason)


def _shape(tensor: InputTensor) -> tuple[int | float, ...]:
    if memoryview(tensor.shape).nbytes > _MAX_SHAPE_BYTES:
        raise bad_tensor(f"the shape of '{tensor.name}' is over {_MAX_SHAPE_BYTES} characters long", "bad_shape")
    try:
        return _SHAPE.decode(memoryview(tensor.shape))
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_tensor(f"the shape of '{tensor.name}' can't be read: {error}", "bad_shape") from error


def _decode(decoder: msgspec.json.Decoder[Any], data: msgspec.Raw) -> Any:
    try:
        return decoder.decode(memoryview(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_tensor(f"the data of the input can't be read: {error}", "bad_data") from error


def _levels(data: list[Any]) -> NDArray[np.uint8]:
    sent = np.array(data)
    levels = sent.astype(np.uint8)
    if (levels != sent).any():
        raise bad_tensor(f"the data of '{PIXELS}' has fractions; send integers in 0…255", "bad_data")
    return levels


def _is_nested(data: msgspec.Raw) -> bool:
    return _NESTED.match(memoryview(data)) is not None


def _check_count(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise bad_tensor(f"the data of '{name}' has {count:,} elements; its shape needs {expected:,}", "bad_size")
