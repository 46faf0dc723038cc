"""The endpoints over HTTP: right answers, and refusals in one form, never a traceback and never 500."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier.answers import Classification
from classifier.errors import ImageError
from classifier.types import EngineInfo, Preprocessing, from_json
from service.limits import MAX_IN_FLIGHT
from tests.classifier.images.test_scans import jpeg
from tests.service.conftest import FORM, assert_refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.model import Model
    from tests.serving import Server


def scores_of(answer: httpx.Response) -> NDArray[np.float32]:
    """Return the scores of an answer that has all labels, in the order of the labels."""
    assert answer.status_code == 200, answer.text
    by_index = {prediction["index"]: prediction["score"] for prediction in answer.json()["predictions"]}
    scores = np.array([by_index[index] for index in range(len(by_index))])
    assert (scores == scores.astype(np.float32)).all(), "a score is not a float32 value"
    return scores.astype(np.float32)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and ends before its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "GIF")
    return file.getvalue()


class TestClassify:
    def test_answers_what_the_model_answers(self, server: Server, model: Model, image: bytes) -> None:
        """The answer has the model's labels and scores, bit for bit, and its name, digest and engine."""
        answer = httpx.post(f"{server.url}/classify", files={"image": image}).raise_for_status()
        [predictions] = model.classify([image])
        assert not isinstance(predictions, ImageError)
        expected = Classification(
            predictions=predictions, model=model.identity, digest=model.digest, engine=model.engine.info
        )
        assert from_json(answer.content, Classification) == expected
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream", "text/plain"])
    def test_takes_a_raw_body_whatever_it_claims_to_be(
        self, server: Server, image: bytes, content_type: str | None
    ) -> None:
        """A body that is not a form is the image (`curl --data-binary @FILE`). Its bytes decide, not the header."""
        form = httpx.post(f"{server.url}/classify", files={"image": image})
        raw = httpx.post(
            f"{server.url}/classify", content=image, headers={"Content-Type": content_type} if content_type else None
        )
        assert raw.content == form.content

    def test_takes_a_chunked_body(self, server: Server, image: bytes) -> None:
        """A client may send a body without its length."""

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(image), 100):
                yield image[start : start + 100]

        answer = httpx.post(f"{server.url}/classify", content=chunks())
        assert "content-length" not in answer.request.headers
        assert answer.content == httpx.post(f"{server.url}/classify", content=image).content

    @pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (10, 10), (10**30, 10)])
    def test_top_k_is_a_field_or_a_parameter(self, server: Server, image: bytes, top_k: int, count: int) -> None:
        """The highest scores come first; a top_k above the number of labels returns all of them."""
        field = httpx.post(f"{server.url}/classify", files={"image": image}, data={"top_k": str(top_k)}).json()
        parameter = httpx.post(f"{server.url}/classify", content=image, params={"top_k": top_k}).json()
        both = httpx.post(f"{server.url}/classify?top_k=2", files={"image": image}, data={"top_k": str(top_k)}).json()
        assert field == parameter == both
        scores = [prediction["score"] for prediction in field["predictions"]]
        assert len(scores) == count
        assert scores == sorted(scores, reverse=True)

    def test_five_labels_are_the_default(self, server: Server, image: bytes) -> None:
        """Five are few enough to read, and enough for acc5."""
        assert len(httpx.post(f"{server.url}/classify", content=image).json()["predictions"]) == 5

    def test_parallel_clients_get_the_bits_of_the_model(self, server: Server, model: Model, test_folder: Path) -> None:
        """32 clients at a time, one image per request: every score equals the one from a single batch."""
        images = [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[:160]]
        expected = model.scores(np.stack([model.decode(image).pixels for image in images]))
        with httpx.Client(limits=httpx.Limits(max_connections=32)) as client, ThreadPoolExecutor(32) as pool:
            answers = list(
                pool.map(lambda image: client.post(f"{server.url}/classify?top_k=10", content=image), images)
            )
        assert np.stack([scores_of(answer) for answer in answers]).tobytes() == expected.tobytes()


class TestModel:
    def test_describes_what_is_served(self, server: Server, model: Model) -> None:
        """One request returns the model's identity, labels, preprocessing and engine."""
        described: Any = server.model
        assert described["model"] == model.identity
        assert described["digest"] == model.digest
        assert described["labels"] == list(model.config.labels)
        assert msgspec.convert(described["preprocessing"], Preprocessing) == model.config.preprocessing
        assert msgspec.convert(described["engine"], EngineInfo) == model.engine.info
        assert described["self_test"]["images"] == len(model.golden.images)


class TestImages:
    @pytest.mark.parametrize(
        ("body", "status", "reason"),
        [
            (b"", 400, "empty"),
            (b"just a text", 415, "not_an_image"),
            (b'{"image": "iVBORw0KGgo="}', 415, "not_an_image"),
            (b"%PDF-1.7\n", 415, "not_an_image"),
            (gif(), 415, "not_an_image"),
            (b"\xff\xd8\xff" + bytes(100), 400, "unreadable"),
            (png_header(100, 100), 400, "unreadable"),
            (png_header(60_000, 60_000), 413, "too_large"),
        ],
        ids=["empty", "text", "json", "pdf", "gif", "corrupt", "truncated", "many pixels"],
    )
    def test_bad_images_are_refused(self, server: Server, body: bytes, status: int, reason: str) -> None:
        """A client learns what is wrong with its image, by the same message for a form and a raw body."""
        raw = httpx.post(f"{server.url}/classify", content=body)
        form = httpx.post(f"{server.url}/classify", files={"image": body})
        assert assert_refused(raw, status, reason) == assert_refused(form, status, reason)

    def test_truncated_image_is_refused(self, server: Server, image: bytes) -> None:
        """Half an image is refused, not classified by its upper half."""
        assert_refused(httpx.post(f"{server.url}/classify", content=image[: len(image) // 2]), 400, "unreadable")

    def test_image_that_takes_long_to_decode(self, server: Server) -> None:
        """A JPEG of many scans is refused at once: a thread that decodes can't be stopped."""
        began = time.monotonic()
        answers = [httpx.post(f"{server.url}/classify", content=jpeg(8000, 90), timeout=30) for _ in range(3)]
        assert time.monotonic() - began < 20
        for answer in answers:
            assert "re-encode it" in assert_refused(answer, 413, "too_slow")


class TestRequests:
    def test_wrong_method(self, server: Server) -> None:
        """The answer names the allowed methods."""
        answer = httpx.get(f"{server.url}/classify")
        assert_refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        assert_refused(httpx.post(f"{server.url}/model"), 405, "method_not_allowed")

    def test_unknown_path(self, server: Server) -> None:
        """An unknown path is refused in the same form as a bad image."""
        assert_refused(httpx.post(f"{server.url}/classifi"), 404, "not_found")

    def test_client_that_leaves_does_no_harm(self, server: Server, image: bytes) -> None:
        """A client may hang up before, during or after its body."""
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)
        before = len(server.log)
        for body in (b"", image[:50], image):
            with server.connect() as connection:
                connection.sendall(head + body)
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200
        assert "Traceback" not in server.log[before:]

    def test_silent_clients_do_not_block_others(self, server: Server, image: bytes) -> None:
        """Requests without their bodies don't count as in flight, however many there are."""
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        with contextlib.ExitStack() as waiting:
            for _ in range(MAX_IN_FLIGHT + 10):
                connection = waiting.enter_context(server.connect())
                connection.sendall(head)
                # The service sends 100 when it starts to read the body.
                assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            assert httpx.post(f"{server.url}/classify", content=image).status_code == 200


class TestFuzz:
    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_no_body_makes_the_service_fail(
        self, server: Server, image: bytes, client: httpx.Client, data: st.DataObject
    ) -> None:
        """Any bytes in any form get an answer or a refusal, never 500."""
        form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + image + b"\r\n--b--\r\n"
        original = data.draw(st.sampled_from([image, form]))
        body = bytearray(original[: data.draw(st.integers(0, len(original)))])
        for _ in range(data.draw(st.integers(0, 5))):
            if body:
                body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        body += data.draw(st.binary(max_size=50))
        headers = data.draw(st.sampled_from([{}, FORM, {"Content-Type": "multipart/form-data; boundary="}]))
        top_k = data.draw(st.none() | st.text(max_size=5))
        answer = client.post(
            f"{server.url}/classify",
            content=bytes(body),
            headers=headers,
            params={} if top_k is None else {"top_k": top_k},
        )
        if answer.status_code != 200:
            assert answer.status_code in {400, 413, 415, 422}, answer.text
            assert set(answer.json()["error"]) == {"reason", "message", "request_id"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client
