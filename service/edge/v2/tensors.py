"""Tensors of the Open Inference Protocol: the images of a request, from JSON or from binary data.

Shapes and sizes are checked before anything is allocated for them.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from classifier.errors import ImageError
from service import limits
from service.edge.refusals import BadRequest
from service.edge.v2.messages import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.edge.v2.messages import InputTensor

IMAGE, PIXELS = "image", "pixels"
_LENGTH = struct.Struct("<I")
_LEVEL = Annotated[int, msgspec.Meta(ge=0, le=255)]
_TEXTS = msgspec.json.Decoder(list[str])
_NESTED_TEXTS = msgspec.json.Decoder(list[Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]])
_LEVELS = msgspec.json.Decoder(list[_LEVEL])


def inputs_of(crop_size: int) -> tuple[TensorMetadata, TensorMetadata]:
    """Return the inputs of a model, of which a request has one."""
    return (
        TensorMetadata(name=IMAGE, datatype="BYTES", shape=(-1,)),
        TensorMetadata(name=PIXELS, datatype="UINT8", shape=(-1, crop_size, crop_size, 3)),
    )


def check_tensor(tensor: InputTensor, crop_size: int) -> None:
    """Check name, datatype and shape of an input.

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
    if tensor.name == IMAGE:
        fits, shapes = len(tensor.shape) == 1 or (len(tensor.shape) == 2 and tensor.shape[1] == 1), "[N] or [N, 1]"
    else:
        fits, shapes = tensor.shape[1:] == expected.shape[1:], f"[N, {crop_size}, {crop_size}, 3]"
    if not fits or tensor.shape[0] < 0:
        raise bad_tensor(f"the input '{tensor.name}' has shape {list(tensor.shape)}; send {shapes}", "bad_shape")
    if tensor.shape[0] == 0:
        raise bad_tensor("the request has no image; send at least one", "no_image")
    if tensor.shape[0] > limits.MAX_IMAGES:
        raise BadRequest(
            f"the request has {tensor.shape[0]} images; send at most {limits.MAX_IMAGES}",
            reason="too_many_images",
            status=413,
        )


def images_from_binary(tensor: InputTensor, data: memoryview) -> list[bytes]:
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


def images_from_json(tensor: InputTensor, data: bytes) -> list[bytes | ImageError]:
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
    nested = len(tensor.shape) == 2 and _is_nested(data)
    texts = [text for [text] in _decode(_NESTED_TEXTS, data)] if nested else _decode(_TEXTS, data)
    _check_count(IMAGE, len(texts), tensor.shape[0])
    return [_decode_base64(text) for text in texts]


def pixels_from_binary(tensor: InputTensor, data: memoryview) -> list[NDArray[np.uint8]]:
    """Return the images, uint8 `[H, W, 3]`, in the binary data of the input `pixels`, without a copy.

    Raises:
        BadRequest: the size is not the shape's.
    """
    size = math.prod(tensor.shape)
    if len(data) != size:
        raise bad_tensor(f"the binary data of '{PIXELS}' has {len(data):,} bytes; its shape needs {size:,}", "bad_size")
    return list(np.frombuffer(data, np.uint8).reshape(tensor.shape))


def pixels_from_json(tensor: InputTensor, data: bytes) -> list[NDArray[np.uint8]]:
    """Return the images, uint8 `[H, W, 3]`, in the JSON data of the input `pixels`: nested lists or one flat list.

    Raises:
        BadRequest: they are not integers in 0…255, or not as many as the shape says.
    """
    if not _is_nested(data):
        levels = _decode(_LEVELS, data)
        _check_count(PIXELS, len(levels), math.prod(tensor.shape))
        return list(np.array(levels, np.uint8).reshape(tensor.shape))
    nested: Any = _LEVEL
    # Fixed lengths: the decoder stops at the first list that has another, before it has built the rest.
    for length in reversed(tensor.shape[1:]):
        nested = Annotated[list[nested], msgspec.Meta(min_length=length, max_length=length)]
    images = _decode(msgspec.json.Decoder(list[nested]), data)
    _check_count(PIXELS, len(images), tensor.shape[0])
    return list(np.array(images, np.uint8))


def bytes_to_decode(data: bytes) -> int:
    """Return the most bytes that decoding the JSON data of `pixels` takes: a list for each 3 levels, a pointer each."""
    return (12 if _is_nested(data) else 5) * len(data)


def encode_bytes(elements: Sequence[bytes]) -> bytes:
    """Return BYTES elements as binary data."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def bad_tensor(message: str, reason: str) -> BadRequest:
    """Return the refusal, 400, of a tensor."""
    return BadRequest(message, reason=reason)


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_tensor(f"the data of the input can't be read: {error}", "bad_data") from error


def _is_nested(data: bytes) -> bool:
    # `data` has no space before its first byte.
    return data[1:].lstrip()[:1] == b"["


def _check_count(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise bad_tensor(f"the data of '{name}' has {count:,} elements; its shape needs {expected:,}", "bad_size")


def _decode_base64(text: str) -> bytes | ImageError:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ImageError("the string is not base64; encode the bytes of the image's file", reason="not_base64")
