"""What the service refuses, and how: always in one form, never with a traceback, never with 500."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import struct
import zlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier.images import LIMITS
from service.http import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.service.conftest import Server

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def assert_refused(answer: httpx.Response, status: int, reason: str) -> str:
    """Assert that the answer is a refusal of the usual form, and return its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["reason"] == reason
    assert set(error) == {"reason", "message"}
    assert "Traceback" not in answer.text
    message: str = error["message"]
    return message


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and breaks off where its pixels begin."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "GIF")
    return file.getvalue()


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
        """A client learns what is wrong with its image, the same in a form as in a raw body."""
        raw = httpx.post(f"{server.url}/classify", content=body)
        form = httpx.post(f"{server.url}/classify", files={"image": body})
        assert assert_refused(raw, status, reason) == assert_refused(form, status, reason)

    def test_truncated_image_is_refused(self, server: Server, image: bytes) -> None:
        """Half an image is no image: there is no guess from the upper half."""
        assert_refused(httpx.post(f"{server.url}/classify", content=image[: len(image) // 2]), 400, "unreadable")


class TestSize:
    def test_declared_length_is_refused_before_the_body_comes(self, server: Server) -> None:
        """A body that says how large it is need not be sent."""
        with connected(server) as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("content_type", ["image/png", FORM["Content-Type"]], ids=["raw", "form"])
    def test_body_without_a_length_is_refused_at_the_limit(self, server: Server, content_type: str) -> None:
        """An endless body gets its answer as soon as it is too large, and no more of it is kept."""
        headers = f"Host: x\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked"
        start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        piece = bytes(2**20)
        sent = 0
        with connected(server) as connection:
            connection.sendall(f"POST /classify HTTP/1.1\r\n{headers}\r\n\r\n".encode())
            connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
            while not select.select([connection], [], [], 0)[0] and sent < 2 * LIMITS.max_bytes:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert LIMITS.max_bytes <= sent < 2 * LIMITS.max_bytes

    def test_client_that_sends_all_of_a_large_body_reads_the_refusal(self, server: Server) -> None:
        """The connection is not torn down under a client that writes first and reads then."""
        answer = httpx.post(f"{server.url}/classify", files={"image": bytes(LIMITS.max_bytes + 1)})
        assert_refused(answer, 413, "too_large")


class TestForms:
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "no_image"),
            (b"--b--\r\n", "no_image"),
            (b"no form at all", "malformed_form"),
            (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--b--\r\n', "no_image"),
            (b'--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\nx\r\n--b--\r\n', "no_image"),
            (b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\ncut', "no_image"),
            (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "malformed_form"),
            (b"--b\r\n\xff\xff\xff", "malformed_form"),
        ],
        ids=["empty", "no fields", "no form", "text field", "other field", "cut off", "no name", "bad header"],
    )
    def test_bad_forms_are_refused(self, server: Server, body: bytes, reason: str) -> None:
        """A form without an image in it is told from one that can't be read."""
        assert_refused(httpx.post(f"{server.url}/classify", content=body, headers=FORM), 400, reason)

    def test_form_without_a_boundary_is_refused(self, server: Server) -> None:
        """The mistake of setting the Content-Type by hand."""
        headers = {"Content-Type": "multipart/form-data"}
        message = assert_refused(
            httpx.post(f"{server.url}/classify", content=b"x", headers=headers), 400, "malformed_form"
        )
        assert "boundary" in message

    def test_two_images_are_refused(self, server: Server, image: bytes) -> None:
        """One is not picked in silence."""
        files = [("image", image), ("image", image)]
        assert_refused(httpx.post(f"{server.url}/classify", files=files), 400, "several_images")

    @pytest.mark.parametrize("top_k", ["0", "-1", "abc", "", "2.5", "1_0", "+1", "²", "9" * 5000])
    def test_bad_top_k_is_refused(self, server: Server, image: bytes, top_k: str) -> None:
        """As a field and as a parameter."""
        field = httpx.post(f"{server.url}/classify", files={"image": image}, data={"top_k": top_k})
        parameter = httpx.post(f"{server.url}/classify", content=image, params={"top_k": top_k})
        assert_refused(field, 422, "bad_top_k")
        assert_refused(parameter, 422, "bad_top_k")


class TestRequests:
    def test_wrong_method(self, server: Server) -> None:
        """With what would have been right."""
        answer = httpx.get(f"{server.url}/classify")
        assert_refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        assert_refused(httpx.post(f"{server.url}/model"), 405, "method_not_allowed")

    def test_unknown_path(self, server: Server) -> None:
        """In the form of every other refusal."""
        assert_refused(httpx.post(f"{server.url}/classifi"), 404, "not_found")

    def test_client_that_leaves_does_no_harm(self, server: Server, image: bytes) -> None:
        """In the middle of its body, or before its answer."""
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)
        before = len(server.log)
        for body in (b"", image[:50], image):
            with connected(server) as connection:
                connection.sendall(head + body)
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200
        assert "Traceback" not in server.log[before:]

    def test_clients_that_send_nothing_keep_nobody_out(self, server: Server, image: bytes) -> None:
        """A connection whose body does not come takes no place: others are served beside any number of them."""
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        with contextlib.ExitStack() as waiting:
            for _ in range(MAX_IN_FLIGHT + 10):
                connection = waiting.enter_context(connected(server))
                connection.sendall(head)
                # The service asks for a body when it begins to read.
                assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            assert httpx.post(f"{server.url}/classify", content=image).status_code == 200


class TestFuzz:
    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_no_body_makes_the_service_fail(
        self, server: Server, image: bytes, client: httpx.Client, data: st.DataObject
    ) -> None:
        """Whatever comes, in whatever form: an answer or a refusal, never 500."""
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
            assert set(answer.json()["error"]) == {"reason", "message"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def connected(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=20)
