"""What strangers write into paths and headers: labels of the metrics, lines of the log, and bad types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.exchange import UNKNOWN
from tests.service.edge.test_connections import assert_refusal, everything

if TYPE_CHECKING:
    from tests.serving import Server


REQUEST_ID = re.compile("[0-9a-f]{32}")


class TestRequestId:
    @pytest.mark.parametrize("sent", ["abc", "7f9e/2+3=", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x" * 128])
    def test_the_clients_own_comes_back(self, server: Server, image: bytes, sent: str) -> None:
        """A client finds its request in answer, error and log by the ID that it chose."""
        answer = httpx.post(f"{server.url}/classify", content=image, headers={"X-Request-Id": sent})
        refused = httpx.post(f"{server.url}/classify", content=b"no", headers={"X-Request-Id": sent})
        assert answer.headers["x-request-id"] == refused.headers["x-request-id"] == sent
        assert refused.json()["error"]["request_id"] == sent
        assert [line["status"] for line in server.logged(request_id=sent, count=2)] == [200, 415]

    def test_a_request_without_gets_one(self, server: Server, image: bytes) -> None:
        """Each request has an ID of its own, whatever its answer."""
        answers = [httpx.post(f"{server.url}/classify", content=content) for content in (image, image, b"", b"x")]
        answers += [httpx.get(f"{server.url}{path}") for path in ("/readyz", "/nowhere", "/classify", "/docs.json")]
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert all(REQUEST_ID.fullmatch(each) for each in ids)
        assert len(set(ids)) == len(ids)

    @pytest.mark.parametrize("sent", [b"", b"a b", b"x" * 129, b"\xff", b"a;b", b'"', b"<b>"])
    def test_one_that_could_forge_a_line_is_replaced(self, server: Server, sent: bytes) -> None:
        """Only letters, digits and ._:+/=- are taken, up to 128 of them."""
        answer = httpx.get(f"{server.url}/model", headers={"X-Request-Id": sent})
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])


def endpoints(server: Server) -> set[str]:
    """Return the values of the label `endpoint` in the metrics."""
    metrics = httpx.get(f"{server.url}/metrics").text
    return {line.split('endpoint="')[1].split('"')[0] for line in metrics.splitlines() if 'endpoint="' in line}


class TestMetrics:
    def test_only_known_routes_are_labels(self, server: Server) -> None:
        """Unknown paths share one label, so scanning a service doesn't make its metrics grow."""
        with httpx.Client(base_url=server.url) as client:
            for path in ("nowhere", "docs.json", "page/x", "docs/x", "model", "metrics"):
                client.get(f"/{path}")
            before, size = endpoints(server), len(client.get("/metrics").text)
            for number in range(500):
                client.get(f"/nowhere/{number}")
                client.get(f"/page/{number}")
                client.get(f"/docs/{number}")
                client.post(f"/classify{number}")
            assert endpoints(server) == before
            assert UNKNOWN in before
            assert {"/model", "/docs.json", "/page/{name}", "/docs/{name}"} < before
            assert len(client.get("/metrics").text) < size + 5000

    def test_the_log_has_the_path(self, server: Server) -> None:
        """The operator sees which unknown path was asked for."""
        httpx.get(f"{server.url}/an-unknown-path")
        assert len(server.logged(path="/an-unknown-path")) == 1


class TestLog:
    def test_probes_are_not_logged(self, server: Server) -> None:
        """Those of KServe as those of Kubernetes."""
        for path in ("livez", "readyz", "v2/health/live", "v2/health/ready"):
            httpx.get(f"{server.url}/{path}", headers={"X-Request-Id": "a-probe"})
        httpx.get(f"{server.url}/v2", headers={"X-Request-Id": "a-probe"})
        assert [line["path"] for line in server.logged(request_id="a-probe")] == ["/v2"]

    @pytest.mark.parametrize(
        ("sent", "shown"),
        [
            ("%0a2026-01-01T00:00:00 [INFO] forged", r"\n2026-01-01T00:00:00"),
            ("%0d", r"\r"),
            ("%1b%5B2J", r"\x1b[2J"),
            ("%c2%9b2J", r"\x9b2J"),
            ("%e2%80%ae", r"\u202e"),
            ("%00", r"\x00"),
        ],
    )
    def test_control_characters_of_a_path(self, server: Server, sent: str, shown: str) -> None:
        """A path is one line of the log, and can't move a terminal's cursor."""
        answer = httpx.get(f"{server.url}/x{sent.replace(' ', '%20')}")
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        assert line["path"].startswith(f"/x{shown}")
        assert all(line.isascii() and line.isprintable() for line in server.log.split("\n"))

    def test_content_type(self, server: Server) -> None:
        """Neither can a Content-Type."""
        answer = httpx.get(f"{server.url}/nowhere", headers={"Content-Type": b"a\xc2\x9b2J"})
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        assert line["type"] == r"a\x9b2J"

    def test_long_path(self, server: Server) -> None:
        """A path of 60 KB is cut."""
        answer = httpx.get(f"{server.url}/{'x' * 60_000}")
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        assert len(line["path"]) == 501


def test_type_that_is_not_text(server: Server, image: bytes) -> None:
    """A Content-Type that is not UTF-8 decides nothing, as any other: the bytes are an image."""
    answer = httpx.post(f"{server.url}/classify", content=image, headers={"Content-Type": b"image/\xff"})
    assert answer.content == httpx.post(f"{server.url}/classify", content=image).content


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=" + "b" * 1000,
        "multipart/form-data; boundary=b; charset=nonsense",
        "multipart/form-data; boundary=b; charset=zlib",
        "multipart/form-data; boundary=\u00e4".encode(),
        "multipart/mixed; boundary=b",
        "application/x-www-form-urlencoded",
        "; ; ;",
        "",
    ],
)
def test_odd_types(server: Server, content_type: str | bytes) -> None:
    """Whatever the type says, a body without an image is refused in the usual form."""
    body = b'--b\r\nContent-Disposition: form-data; name="im\xff"; filename="x"\r\n\r\nno image\r\n--b--\r\n'
    answer = httpx.post(f"{server.url}/classify", content=body, headers={"Content-Type": content_type})
    assert answer.status_code in {400, 415}, answer.text
    assert set(answer.json()["error"]) == {"reason", "message", "request_id"}


@settings(max_examples=100)
@given(
    name=st.sampled_from(
        [b"Content-Type", b"User-Agent", b"Accept", b"Host", b"Traceparent", b"X-Forwarded-For", b"Cookie"]
    ),
    value=st.binary(max_size=20),
    path=st.binary(max_size=20),
)
def test_no_header_and_no_path_goes_without_answer(server: Server, name: bytes, value: bytes, path: bytes) -> None:
    """Any bytes in a path or a header get an answer, never a closed connection or 500."""
    with server.connect() as connection:
        connection.sendall(b"GET /%s HTTP/1.1\r\n%s: %s\r\nConnection: close\r\n\r\n" % (path, name, value))
        answer = everything(connection)
    if b"400 Bad Request" in answer.split(b"\r\n")[0]:
        assert_refusal(answer, 400, "bad_request")
    else:
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 ")), answer
