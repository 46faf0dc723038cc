"""Inference requests as a client without a library would build them."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.model import Model
    from tests.serving import Server

HEADER = "Inference-Header-Content-Length"


def image_tensor(images: list[bytes], **changes: Any) -> dict[str, Any]:
    """Return the input `image` in JSON."""
    return {
        "name": "image",
        "shape": [len(images)],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode() for image in images],
    } | changes


def pixel_tensor(pixels: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    """Return the input `pixels` in JSON, nested."""
    return {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.tolist()} | changes


def elements(images: list[bytes]) -> bytes:
    """Return BYTES elements in binary."""
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def infer(server: Server, *inputs: dict[str, Any], **message: Any) -> httpx.Response:
    """Return the answer to a request in JSON."""
    return post(server, json.dumps({"inputs": list(inputs), **message}).encode())


def infer_binary(server: Server, tensor: dict[str, Any], binary: bytes, **message: Any) -> httpx.Response:
    """Return the answer to a request with one binary tensor."""
    tensor = {"parameters": {"binary_data_size": len(binary)}} | tensor
    head = json.dumps({"inputs": [tensor], **message}).encode()
    return post(server, head + binary, {HEADER: str(len(head))})


def post(server: Server, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/digits/infer", content=body, headers=headers, timeout=60)


def assert_protocol_error(answer: httpx.Response, status: int, *said: str) -> None:
    """Assert that the answer is an error in the protocol's form which says what is wrong."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.headers["x-request-id"]
    message = answer.json()["error"]
    assert "Traceback" not in message
    for words in said:
        assert words in message


def numbers(answer: httpx.Response, name: str = "scores") -> NDArray[np.float32]:
    """Return an output of numbers in an answer of JSON."""
    [output] = [each for each in answer.raise_for_status().json()["outputs"] if each["name"] == name]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@pytest.fixture(scope="session")
def images(test_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[:40:5]]


@pytest.fixture(scope="session")
def pixels(images: list[bytes], model: Model) -> NDArray[np.uint8]:
    return np.stack([model.decode(image).pixels for image in images])


@pytest.fixture(scope="session")
def scores(pixels: NDArray[np.uint8], model: Model) -> NDArray[np.float32]:
    return model.scores(pixels)
