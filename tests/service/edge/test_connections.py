"""What a client may do before and around its body: bytes, time and number of connections."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
import uvicorn

from service import limits
from service.edge import connections
from service.edge.connections import BoundedProtocol
from service.limits import MAX_CONNECTIONS, MAX_HEAD_BYTES
from service.serving import Serving
from tests.registry.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.serving import Server

MIB = 2**20
HALF_REQUESTS = {
    "nothing": b"",
    "half a head": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half:",
    "half a body": b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    "half a body behind a request": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
}
ENDLESS = {
    "header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ",
    "URL": b"GET /",
    "query": b"GET /livez?",
    "method": b"",
    "trailer": b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Long: ",
    "chunk extension": b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
}


def everything(connection: socket.socket, within_s: float = 20) -> bytes:
    """Return all that the service sends until it closes the connection."""
    connection.settimeout(within_s)
    received = b""
    with contextlib.suppress(ConnectionError):
        while some := connection.recv(65536):
            received += some
    return received


def assert_refusal(answer: bytes, status: int, reason: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    error = json.loads(body)["error"]
    assert error["reason"] == reason
    assert f"x-request-id: {error['request_id']}".encode() in head


@pytest.fixture(scope="module")
def worker(server: Server) -> psutil.Process:
    """Return the process that answers."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return max(children, key=lambda child: child.memory_info().rss)


class TestHead:
    def test_limit(self, server: Server) -> None:
        """Headers up to the limit are read; more are refused in the usual form."""
        assert httpx.get(f"{server.url}/livez", headers={"X-Long": "x" * (MAX_HEAD_BYTES - 2000)}).status_code == 200
        refused = httpx.get(f"{server.url}/livez", headers={"X-Long": "x" * 2 * MAX_HEAD_BYTES})
        assert refused.status_code == 431
        assert refused.json()["error"]["reason"] == "head_too_large"

    def test_many_small_headers(self, server: Server) -> None:
        """The limit is on all headers together."""
        with server.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES)
            assert_refusal(everything(connection), 431, "head_too_large")

    @pytest.mark.parametrize("what", ENDLESS)
    def test_endless(self, server: Server, worker: psutil.Process, what: str) -> None:
        """100 MB of it cost hardly any memory, and do not stall others meanwhile."""
        before = worker.memory_info().rss

        def send() -> None:
            with server.connect() as connection, contextlib.suppress(OSError):
                connection.sendall(ENDLESS[what])
                for _ in range(100):
                    connection.sendall(b"A" * MIB)

        sending = threading.Thread(target=send)
        sending.start()
        while sending.is_alive():
            assert httpx.get(f"{server.url}/livez", timeout=5).status_code == 200
        assert worker.memory_info().rss - before < 30 * MIB

    def test_chunks_of_one_byte(self, server: Server, image: bytes) -> None:
        """The framing of a chunked body is not a head, however much longer than the body it is."""
        body = b"".join(b"1;%s\r\n%c\r\n" % (b"x" * 1000, byte) for byte in image)
        assert len(body) > MAX_HEAD_BYTES
        with server.connect() as connection:
            head = b"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + body + b"0\r\n\r\n")
            assert everything(connection).startswith(b"HTTP/1.1 200 ")

    def test_many_requests_at_once(self, server: Server) -> None:
        """A pipeline of thousands of requests is cut, instead of being queued."""
        with server.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
            assert everything(connection).count(b"HTTP/1.1 200 ") < 1000
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert "Traceback" not in server.log

    @pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
    def test_upgrade(self, server: Server, upgrade: str) -> None:
        """A request to upgrade is answered as it stands: a websocket would leave the limits behind."""
        headers = {
            "Connection": "Upgrade",
            "Upgrade": upgrade,
            "Sec-WebSocket-Key": "eA==",
            "Sec-WebSocket-Version": "13",
        }
        assert httpx.get(f"{server.url}/model", headers=headers).status_code == 200
        assert httpx.get(f"{server.url}/nowhere", headers=headers).status_code == 404

    @pytest.mark.parametrize("junk", [b"junk\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
    def test_not_http(self, server: Server, junk: bytes) -> None:
        """What is not HTTP is refused in the usual form."""
        with server.connect() as connection:
            connection.sendall(junk)
            assert_refusal(everything(connection), 400, "bad_request")
        counted = 'tandem_requests_total{endpoint="unknown",reason="bad_request",status="400"}'
        assert counted in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("half", HALF_REQUESTS)
def test_half_requests_lock_nobody_out(server: Server, image: bytes, half: str) -> None:
    """Clients that send half a request are closed to make room for others, in whatever number they come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * MAX_CONNECTIONS:
        pytest.skip("needs more open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MAX_CONNECTIONS), hard))
    with contextlib.ExitStack() as held:
        for _ in range(MAX_CONNECTIONS + 200):
            held.enter_context(server.connect()).sendall(HALF_REQUESTS[half])
        for _ in range(3):
            assert httpx.get(f"{server.url}/livez", timeout=30).status_code == 200
            assert httpx.post(f"{server.url}/classify", content=image, timeout=30).status_code == 200


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer `/large` with 64 MiB at once, and everything else with nothing after its body."""
    assert scope["type"] == "http"
    while scope["path"] != "/large" and (await receive()).get("more_body"):
        pass
    body = bytes(64 * MIB) if scope["path"] == "/large" else b""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the port of a server in this process, whose limits end within a second or two."""
    monkeypatch.setattr(Serving, "current", lambda: SimpleNamespace(note=lambda *_: None))
    for name in ("HEAD_WITHIN_S", "BODY_WITHIN_S", "ANSWER_WITHIN_S", "SLACK_S"):
        monkeypatch.setattr(limits, name, 0.5)
    monkeypatch.setattr(connections, "_CHECK_EVERY_S", 0.1)
    port = free_port()
    config = uvicorn.Config(
        application, port=port, http=BoundedProtocol, log_config=None, lifespan="off", timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    serving.join()


class TestTime:
    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"", None),
            (b"GET / HT", 408),
            (b"GET / HTTP/1.1\r\nHost:", 408),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", 408),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", 408),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n", 200),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", 200),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", 200),
        ],
    )
    def test_what_stops_is_closed(self, short: int, sent: bytes, status: int | None) -> None:
        """Whatever a client sends before it falls silent, its connection ends in time, with an answer if it asked."""
        with socket.create_connection(("127.0.0.1", short)) as connection:
            connection.sendall(sent)
            answer = everything(connection, within_s=6)
        assert answer.startswith(b"HTTP/1.1 %d " % status if status else b"")
        assert bool(answer) == bool(status)

    def test_what_trickles_is_closed(self, short: int) -> None:
        """A head that comes byte by byte has the same time as one that comes at once."""
        with socket.create_connection(("127.0.0.1", short)) as connection, contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            began = time.monotonic()
            while time.monotonic() - began < 6:
                connection.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < 5

    def test_answer_that_is_not_taken(self, short: int) -> None:
        """A client that does not read its answer can't keep it in the service's memory."""
        with socket.create_connection(("127.0.0.1", short)) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(3)
            assert len(everything(connection)) < 64 * MIB

    def test_many_requests_on_one_connection(self, short: int) -> None:
        """The limits are for one request: a connection may be used for longer."""
        with httpx.Client() as client:
            for _ in range(10):
                assert client.get(f"http://127.0.0.1:{short}/").status_code == 200
                time.sleep(0.2)
