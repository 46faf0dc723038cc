"""`POST /classify_batch`: many images in, one result or error each, in order."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np
import pytest
from starlette.requests import Request

from service.edge.batches import read_batch
from service.edge.refusals import BadRequest
from service.limits import MAX_BODY_BYTES, MAX_IMAGES
from tests.service.conftest import assert_refused

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model
    from tests.serving import Server


def post_form(server: Server, images: list[bytes], **params: int) -> httpx.Response:
    return httpx.post(
        f"{server.url}/classify_batch", files=[("images", image) for image in images], params=params, timeout=60
    )


def post_list(server: Server, images: list[Any], **params: int) -> httpx.Response:
    strings = [base64.b64encode(image).decode() if isinstance(image, bytes) else image for image in images]
    return httpx.post(f"{server.url}/classify_batch", json=strings, params=params, timeout=60)


@pytest.fixture(scope="module")
def images(test_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[:MAX_IMAGES]]


def test_scores_are_those_of_the_model(server: Server, model: Model, images: list[bytes]) -> None:
    """128 images, as a form or as a list: each score equals the model's, bit for bit, in the order sent."""
    expected = model.scores(np.stack([model.decode(image).pixels for image in images]))
    for answer in (post_form(server, images, top_k=10), post_list(server, images, top_k=10)):
        results = answer.raise_for_status().json()["results"]
        scores = [[p["score"] for p in sorted(r["predictions"], key=lambda p: p["index"])] for r in results]
        assert np.array(scores, np.float32).tobytes() == expected.tobytes()


def test_a_bad_image_fails_alone(server: Server, image: bytes) -> None:
    """Its place has a reason and a sentence; its neighbours have the answers they have alone."""
    alone = httpx.post(f"{server.url}/classify", content=image).json()
    answer = post_form(server, [image, b"", b"no image", image, image[:-30]]).raise_for_status().json()
    reasons = [result["error"] and result["error"]["reason"] for result in answer["results"]]
    assert reasons == [None, "empty", "not_an_image", None, "unreadable"]
    assert [r["predictions"] for r in answer["results"]] == [
        alone["predictions"],
        None,
        None,
        alone["predictions"],
        None,
    ]
    assert (answer["digest"], answer["engine"]) == (alone["digest"], alone["engine"])


def test_a_string_that_is_not_base64_fails_alone(server: Server, image: bytes) -> None:
    """The other strings of a list are answered."""
    results = post_list(server, [image, "not base64!", "é", ""]).raise_for_status().json()["results"]
    assert [r["error"] and r["error"]["reason"] for r in results] == [None, "not_base64", "not_base64", "empty"]


def test_a_text_field_is_refused(server: Server, image: bytes) -> None:
    """A form field `images` without a file name is text, so the form is wrong: the answer says to send a file."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\ntext\r\n'
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n' + image + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{server.url}/classify_batch", content=body, headers=headers)
    assert "curl -F images=@FILE" in assert_refused(answer, 400, "no_image")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed_list"),
        (b"{}", "malformed_list"),
        (b"[1]", "malformed_list"),
        (b'["', "malformed_list"),
        (b'["\xff"]', "malformed_list"),
        (b"null", "malformed_list"),
        (b"[" * 100_000, "malformed_list"),
        (b"[]", "no_image"),
    ],
)
def test_bodies_that_are_no_list(server: Server, body: bytes, reason: str) -> None:
    """What is not a JSON list of strings is refused with a sentence that names both forms."""
    assert_refused(httpx.post(f"{server.url}/classify_batch", content=body), 400, reason)


def test_limits(server: Server, image: bytes) -> None:
    """129 images are too many, and a body has the limit of one image's."""
    assert_refused(post_form(server, [image] * (MAX_IMAGES + 1)), 413, "too_many_images")
    assert_refused(post_form(server, [b"x"] * 1001), 413, "too_many_images")
    assert_refused(post_list(server, [image] * (MAX_IMAGES + 1)), 413, "too_many_images")
    assert_refused(httpx.post(f"{server.url}/classify_batch", content=b" " * (MAX_BODY_BYTES + 1)), 413, "too_large")
    assert_refused(post_form(server, [image], top_k=0), 422, "bad_top_k")


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b'"a",' * (2**20 // 4) + b'"a"]',
        b'["' + "\U0001f600".encode() + b"a" * 2**20 + b'"]',
        b'["\\ud83d\\ude00' + b"a" * 2**20 + b'"]',
        b'["' + b"\\/" * 2**19 + b'"]',
        b'["' + b"A" * 2**20 + b'"]',
    ],
    ids=["many", "emoji", "escape", "slashes", "image"],
)
def test_a_list_takes_no_more_than_is_reserved(body: bytes) -> None:
    """Whatever 1 MiB of JSON is made to become: many strings, or characters of four bytes."""
    reserved = 0

    def reserve(size: int) -> None:
        nonlocal reserved
        reserved += size

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read() -> None:
        with contextlib.suppress(BadRequest):
            await read_batch(Request({"type": "http", "headers": [], "query_string": b""}, receive), reserve)

    anyio.run(read)  # what is imported late is not counted
    reserved = 0
    tracemalloc.start()
    try:
        anyio.run(read)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= reserved + 2**18
    assert reserved <= 10 * len(body)


def test_predict_is_classify(server: Server, image: bytes) -> None:
    """`/predict`, as tutorials name it, answers the same bytes."""
    for content in (image, b"no image"):
        answers = [
            httpx.post(f"{server.url}/{name}?top_k=3", content=content, headers={"X-Request-Id": "1"})
            for name in ("classify", "predict")
        ]
        assert answers[0].content == answers[1].content
        assert answers[0].status_code == answers[1].status_code


def test_bentoml_clients_send_several(server: Server, image_file: Path) -> None:
    """BentoML's clients, sync and async, find `/classify_batch` and its parameters."""
    script = f"""
import asyncio, bentoml, json, pathlib
images = [pathlib.Path({str(image_file)!r})] * 3
with bentoml.SyncHTTPClient({server.url!r}) as client:
    sync = client.classify_batch(images=images, top_k=2)
async def main():
    async with bentoml.AsyncHTTPClient({server.url!r}) as client:
        return await client.classify_batch(images=images, top_k=2)
print(json.dumps([sync, asyncio.run(main())]))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout
    expected = post_form(server, [image_file.read_bytes()] * 3, top_k=2).json()
    assert json.loads(printed) == [expected, expected]
