"""Bodies: their sizes and their forms."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import httpx
import pytest

from classifier.images import LIMITS
from tests.service.conftest import FORM, assert_refused

if TYPE_CHECKING:
    from tests.serving import Server


class TestSize:
    def test_declared_length_is_refused_before_the_body_comes(self, server: Server) -> None:
        """A body that declares too large a size is refused before it is sent."""
        with server.connect() as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("content_type", ["image/png", FORM["Content-Type"]], ids=["raw", "form"])
    def test_body_without_a_length_is_refused_at_the_limit(self, server: Server, content_type: str) -> None:
        """An endless body is refused as soon as it is too large, and the service keeps no more of it."""
        headers = f"Host: x\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked"
        start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        piece = bytes(2**20)
        sent = 0
        with server.connect() as connection:
            connection.sendall(f"POST /classify HTTP/1.1\r\n{headers}\r\n\r\n".encode())
            connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
            while not select.select([connection], [], [], 0)[0] and sent < 2 * LIMITS.max_bytes:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert LIMITS.max_bytes <= sent < 2 * LIMITS.max_bytes

    def test_client_that_sends_all_of_a_large_body_reads_the_refusal(self, server: Server) -> None:
        """The connection stays open for a client that writes everything before it reads."""
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
        """The reason tells a form without an image from a malformed form."""
        assert_refused(httpx.post(f"{server.url}/classify", content=body, headers=FORM), 400, reason)

    def test_form_without_a_boundary_is_refused(self, server: Server) -> None:
        """A client that sets the Content-Type by hand learns that the boundary is missing."""
        headers = {"Content-Type": "multipart/form-data"}
        message = assert_refused(
            httpx.post(f"{server.url}/classify", content=b"x", headers=headers), 400, "malformed_form"
        )
        assert "boundary" in message

    def test_two_images_are_refused(self, server: Server, image: bytes) -> None:
        """The service doesn't pick one silently."""
        files = [("image", image), ("image", image)]
        assert_refused(httpx.post(f"{server.url}/classify", files=files), 400, "several_images")

    @pytest.mark.parametrize("top_k", ["0", "-1", "abc", "", "2.5", "1_0", "+1", "²", "٣", "9" * 5000])
    def test_bad_top_k_is_refused(self, server: Server, image: bytes, top_k: str) -> None:
        """A field and a query parameter are checked alike."""
        field = httpx.post(f"{server.url}/classify", files={"image": image}, data={"top_k": top_k})
        parameter = httpx.post(f"{server.url}/classify", content=image, params={"top_k": top_k})
        assert_refused(field, 422, "bad_top_k")
        assert_refused(parameter, 422, "bad_top_k")

    @pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
    def test_top_k_may_be_a_file(self, server: Server, image: bytes, content_type: str) -> None:
        """Swagger UI sends a number of a form as a file part of type application/json."""
        files = {"image": ("x.png", image), "top_k": ("blob", b"2", content_type)}
        answer = httpx.post(f"{server.url}/classify", files=files).raise_for_status().json()
        assert len(answer["predictions"]) == 2

    @pytest.mark.parametrize("top_k", [b"", b"0", b'"2"', b"[2]", b"\xff", b"2\n", b"9" * 100, b"9" * 100_000])
    def test_bad_top_k_in_a_file_is_refused(self, server: Server, image: bytes, top_k: bytes) -> None:
        """A file is checked as a field is."""
        files = {"image": ("x.png", image), "top_k": ("blob", top_k, "application/json")}
        assert_refused(httpx.post(f"{server.url}/classify", files=files), 422, "bad_top_k")
