"""Wrong requests at the running service: each gets the right status and a sentence, and does no harm to others."""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.limits import MAX_IMAGES
from tests.batch.run.test_torture import mutate
from tests.classifier.images.samples import FAKES, GOOD, png
from tests.classifier.images.test_scans import jpeg
from tests.service.conftest import FORM, assert_refused
from tests.service.edge.test_connections import assert_refusal, everything

if TYPE_CHECKING:
    from classifier.model import Model
    from tests.serving import Server

SEED = 20_261_129
MUTANTS = 400
HOSTILE = {
    "empty": b"",
    **{f"fake {name}": data for name, (data, _) in FAKES.items()},
    **{f"half of {name}": data[: len(data) // 2] for name, data in GOOD.items()},
    **{f"head of {name}": data[:30] for name, data in GOOD.items()},
    "PNG bomb": png(60_000, 60_000, 8, 2, b""),
    "PNG bomb, largest": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
    "PNG of no pixels": png(0, 0, 8, 2, b""),
    "PNG, long and thin": png(1, 65_535, 8, 0, b""),
    "JPEG bomb": GOOD["JPEG"].replace(b"\x00\x1e\x00\x28", b"\xff\xff\xff\xff"),
    "BMP bomb": GOOD["BMP"].replace(b"\x28\0\0\0\x1e\0\0\0", b"\x60\xea\0\0\x60\xea\0\0"),
    "WebP bomb": GOOD["WebP"].replace(b"\x27\0\0\x1d\0\0", b"\xff\x3f\0\xff\x3f\0", 1),
    "JPEG of many scans": jpeg(8000, 90),
}


def reasons_of(results: list[dict[str, Any]]) -> list[str | None]:
    return [result["error"] and result["error"]["reason"] for result in results]


class TestHostileImages:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_alone(self, server: Server, name: str) -> None:
        """Each is refused as the client's fault, with a reason, as form and as body alike."""
        raw = httpx.post(f"{server.url}/classify", content=HOSTILE[name], timeout=30)
        form = httpx.post(f"{server.url}/classify", files={"image": HOSTILE[name]}, timeout=30)
        assert raw.status_code in {400, 413, 415}, raw.text
        reason = raw.json()["error"]["reason"]
        assert assert_refused(raw, raw.status_code, reason) == assert_refused(form, raw.status_code, reason)

    @pytest.mark.parametrize("as_form", [True, False], ids=["form", "list"])
    def test_among_others(self, server: Server, image: bytes, as_form: bool) -> None:
        """Each fails with the reason that it has alone, and the images between them have their usual answers."""
        alone = httpx.post(f"{server.url}/classify", content=image).json()["predictions"]
        sent = [each for hostile in HOSTILE.values() for each in (hostile, image)]
        assert len(sent) <= MAX_IMAGES
        body: dict[str, Any] = {"json": [base64.b64encode(each).decode() for each in sent]}
        if as_form:
            body = {"files": [("images", each) for each in sent]}
        answer = httpx.post(f"{server.url}/classify_batch", timeout=60, **body).raise_for_status()
        results = answer.json()["results"]
        assert [result["predictions"] for result in results[1::2]] == [alone] * len(HOSTILE)
        for hostile, reason in zip(HOSTILE.values(), reasons_of(results[::2]), strict=True):
            refused = httpx.post(f"{server.url}/classify", content=hostile, timeout=30)
            assert refused.json()["error"]["reason"] == reason

    def test_mutants(self, server: Server, model: Model, image: bytes) -> None:
        """Images that a fuzzer changed get scores if they are still images, else a reason; the request never fails."""
        dice = random.Random(SEED)
        sound = list(GOOD.values())
        mutants = [mutate(sound[number % len(sound)], dice) for number in range(MUTANTS)]
        [clean] = model.classify([image])
        seen: set[str | None] = set()
        half = MAX_IMAGES // 2
        for start in range(0, MUTANTS, half):
            some = mutants[start : start + half]
            files = [("images", each) for mutant in some for each in (mutant, image)]
            answer = httpx.post(f"{server.url}/classify_batch", files=files, timeout=60).raise_for_status()
            results = answer.json()["results"]
            expected = [[p.label, p.score] for p in clean]  # type: ignore[union-attr]
            for neighbour in results[1::2]:
                assert [[p["label"], p["score"]] for p in neighbour["predictions"]] == expected
            seen.update(reasons_of(results[::2]))
        assert {None, "unreadable", "not_an_image"} <= seen
        assert not {"internal", "image_error"} & seen


class TestBodies:
    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "GZIP", "identity, gzip", "x\u00ff"])
    @pytest.mark.parametrize("path", ["/classify", "/classify_batch"])
    def test_compressed(self, server: Server, image: bytes, path: str, encoding: str) -> None:
        """A compressed body is refused unread: 100 KB could become 100 MB. The sentence says to send it as it is."""
        headers = {"Content-Encoding": encoding.encode("latin-1")}
        answer = httpx.post(f"{server.url}{path}", content=gzip.compress(bytes(100_000_000), 1), headers=headers)
        assert "as it is" in assert_refused(answer, 415, "encoded_body")
        assert answer.headers["accept-encoding"] == "identity"

    def test_not_compressed(self, server: Server, image: bytes) -> None:
        """`identity` says that it is not compressed."""
        headers = {"Content-Encoding": "identity"}
        assert httpx.post(f"{server.url}/classify", content=image, headers=headers).status_code == 200

    def test_zeros(self, server: Server) -> None:
        """60 MB of zeros are not an image, and 100 MB are too many, declared or in chunks."""
        assert_refused(httpx.post(f"{server.url}/classify", content=bytes(60_000_000)), 415, "not_an_image")
        assert_refused(httpx.post(f"{server.url}/classify", content=bytes(100_000_000)), 413, "too_large")
        assert_refused(httpx.post(f"{server.url}/classify_batch", content=bytes(60_000_000)), 400, "malformed_list")
        chunks = (bytes(1_000_000) for _ in range(100))
        assert_refused(httpx.post(f"{server.url}/classify_batch", content=chunks), 413, "too_large")

    def test_shorter_than_it_says(self, server: Server, image: bytes) -> None:
        """A client that ends in the middle of its body, and still reads, learns so at once."""
        for head in (b"Content-Length: %d" % (len(image) + 1), b"Transfer-Encoding: chunked"):
            body = image if b"Length" in head else b"%x\r\n%s\r\n" % (len(image), image)
            with server.connect() as connection:
                connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (head, body))
                connection.shutdown(socket.SHUT_WR)
                assert_refusal(everything(connection), 400, "truncated_request")

    def test_head_that_ends_early(self, server: Server) -> None:
        """So does one that ends in the middle of its headers."""
        with server.connect() as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-")
            connection.shutdown(socket.SHUT_WR)
            assert_refusal(everything(connection), 400, "truncated_request")

    def test_longer_than_it_says(self, server: Server, image: bytes) -> None:
        """The body ends where its length says, so the image is cut off, and what follows is not a request."""
        with server.connect() as connection:
            head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(image) - 40)
            connection.sendall(head + image)
            answered = everything(connection)
        assert answered.startswith(b"HTTP/1.1 400 "), answered
        assert b"HTTP/1.1 200 " not in answered

    @pytest.mark.parametrize(
        "headers",
        [
            "Content-Length: -1",
            "Content-Length: 0x10",
            "Content-Length: 1e3",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 99999999999999999999999999",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Content-Length : 5",
            "Content Length: 5",
            ": 5",
        ],
    )
    def test_lengths_that_are_none(self, server: Server, headers: str) -> None:
        """A length that is not one, or that stands beside another, is refused: proxies could read it in another way."""
        with server.connect() as connection:
            connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + b"12345")
            assert_refusal(everything(connection), 400, "bad_request")

    @pytest.mark.parametrize("framing", [b"zz\r\n", b"-1\r\nx\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"])
    def test_chunks_that_are_none(self, server: Server, framing: bytes) -> None:
        """So is a chunk without its size, or with another one than it says."""
        with server.connect() as connection:
            head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + framing)
            connection.sendall(b"\r\n\r\n")
            assert_refusal(everything(connection), 400, "bad_request")

    def test_no_body(self, server: Server) -> None:
        """A POST without a body has no image."""
        assert_refused(httpx.post(f"{server.url}/classify"), 400, "empty")
        assert_refused(httpx.post(f"{server.url}/classify_batch"), 400, "malformed_list")


class TestRequests:
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    @pytest.mark.parametrize("path", ["/classify", "/predict", "/classify_batch"])
    def test_wrong_method(self, server: Server, method: str, path: str) -> None:
        """The header names the methods that there are."""
        answer = httpx.request(method, f"{server.url}{path}")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        if method != "HEAD":
            assert "header Allow" in assert_refused(answer, 405, "method_not_allowed")

    @pytest.mark.parametrize("path", ["/classify/", "/Classify", "//classify", "/classify/x", "/classify%00", "/é"])
    def test_wrong_path(self, server: Server, image: bytes, path: str) -> None:
        """The sentence says where to look; a path that is nearly right is not answered as if it were."""
        answer = httpx.post(f"{server.url}{path}", content=image)
        assert "GET /docs" in assert_refused(answer, 404, "not_found")

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"images": ["aW1hZ2U="]}, "malformed_list"),
            ([["aW1hZ2U="]], "malformed_list"),
            ([None], "malformed_list"),
            ("aW1hZ2U=", "malformed_list"),
        ],
    )
    def test_wrong_json(self, server: Server, body: object, reason: str) -> None:
        """The sentence names the form that the list has."""
        answer = httpx.post(f"{server.url}/classify_batch", content=json.dumps(body))
        assert "list of base64 strings" in assert_refused(answer, 400, reason)

    @pytest.mark.parametrize("field", ["file", "images", "Image", "image[]", ""])
    def test_wrong_field(self, server: Server, image: bytes, field: str) -> None:
        """The sentence names the field."""
        body = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n--b--\r\n'
        answer = httpx.post(f"{server.url}/classify", content=body % (field.encode(), image), headers=FORM)
        assert "field 'image'" in assert_refused(answer, 400, "no_image")

    def test_many_fields(self, server: Server, image: bytes) -> None:
        """Thousands of small fields are refused, not collected."""
        part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
        answer = httpx.post(f"{server.url}/classify", content=part * 20_000 + b"--b--\r\n", headers=FORM)
        assert_refused(answer, 400, "malformed_form")

    def test_one_after_another(self, server: Server, image: bytes) -> None:
        """After all that, the service answers as before, and its log shows no failure."""
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200
        assert "Traceback" not in server.log
        assert "status=500" not in server.log
