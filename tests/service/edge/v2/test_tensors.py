"""What reading tensors takes of memory, which is reserved before."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np
import pytest
from starlette.requests import Request

from service.edge.refusals import BadRequest
from service.edge.v2.requests import read_inference
from service.edge.v2.tensors import (
    Tensor,
    bytes_to_read,
    images_from_binary,
    images_from_json,
    pixels_from_binary,
    pixels_from_json,
)
from tests.service.edge.v2.conftest import elements

if TYPE_CHECKING:
    from collections.abc import Callable

ZEROS = np.zeros((100, 8, 8, 3), np.uint8)
RANDOM = np.random.default_rng(0).integers(100, 256, (100, 8, 8, 3), np.uint8)
IMAGES = [bytes(5000)] * 100


def raw(data: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(data, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("name", "read", "data"),
    [
        ("pixels", pixels_from_json, raw(ZEROS.tolist())),
        ("pixels", pixels_from_json, raw(ZEROS.ravel().tolist())),
        ("pixels", pixels_from_json, raw(ZEROS.astype(float).tolist())),
        ("pixels", pixels_from_json, raw(ZEROS.astype(float).ravel().tolist())),
        ("pixels", pixels_from_json, raw(RANDOM.tolist())),
        ("pixels", pixels_from_binary, memoryview(RANDOM.tobytes())),
        ("image", images_from_json, raw([base64.b64encode(image).decode() for image in IMAGES])),
        ("image", images_from_json, raw([[base64.b64encode(image).decode()] for image in IMAGES])),
        ("image", images_from_binary, memoryview(elements(IMAGES))),
    ],
)
def test_what_is_reserved_is_enough(
    name: str, read: Callable[[Tensor, Any], object], data: msgspec.Raw | memoryview
) -> None:
    """Reading the images of a tensor never takes more than was reserved for them, give or take 64 KB."""
    shape = ZEROS.shape if name == "pixels" else (100,)
    tensor = Tensor(name=name, shape=shape, parameters={"content_type": "base64"})
    read(tensor, data)
    tracemalloc.start()
    try:
        read(tensor, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= bytes_to_read(tensor, data) + 65_536


MIB = 2**20


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[],"outputs":[' + b'{"name":"a"},' * (MIB // 13) + b'{"name":"a"}]}',
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[' + b"1," * (MIB // 2) + b"1]}]}",
        b'{"inputs":[],"parameters":{' + b",".join(b'"%d":1' % number for number in range(MIB // 10)) + b"}}",
        b'{"inputs":[' + b'{"name":"","datatype":"","shape":1},' * (MIB // 40) + b"1]}",
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"content_type":"base64"},"data":['
        + b'"a",' * (MIB // 4)
        + b'"a"]}]}',
        b'{"inputs":[],"id":"' + "\U0001f600".encode() + b"a" * MIB + b'"}',
        b'{"inputs":[],"id":"\\ud83d\\ude00' + b"a" * MIB + b'"}',
    ],
    ids=["outputs", "shape", "parameters", "inputs", "images", "emoji", "escape"],
)
def test_a_hostile_body_takes_no_more_than_is_reserved(body: bytes) -> None:
    """A body of 1 MiB that is made to become large is refused within the memory that was reserved for it."""
    reserved = 0

    def reserve(size: int) -> None:
        nonlocal reserved
        reserved += size

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            anyio.run(read_inference, Request({"type": "http", "headers": []}, receive), reserve, 8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= reserved + MIB // 2
    assert reserved <= 10 * len(body)
