"""A service that is told to stop: what is in flight is answered, what comes is refused, and it ends in time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import httpx

from tests.service.edge.test_connections import assert_refusal, everything
from tests.serving import serving

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.serving import Server

DRAIN_S = 3


def begin(server: Server, request: bytes) -> socket.socket:
    """Return a connection on which a part of a request has arrived."""
    connection = server.connect()
    connection.sendall(request)
    return connection


def accepts(server: Server) -> bool:
    """Return whether a new connection is answered; one that is neither answered nor refused fails the test."""
    try:
        return httpx.get(f"{server.url}/livez").status_code == 200
    except httpx.ConnectError:
        return False


def test_sigterm(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """A signal to `bentoml serve` alone, as from `docker stop` or Kubernetes, loses no request.

    At once readiness says no, while requests are answered, and each answer closes its connection. After the drain new
    connections are refused, and requests that had begun get their answers. Then the exit code is 0.
    """
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)
    with serving(tmp_path, home=digits_home, TANDEM_DRAIN=str(DRAIN_S)) as server, contextlib.ExitStack() as stack:
        half_body = stack.enter_context(begin(server, head + image[:20]))
        half_head = stack.enter_context(begin(server, head[:30]))
        silent = stack.enter_context(begin(server, b""))
        kept = stack.enter_context(httpx.Client(base_url=server.url))
        assert kept.post("/classify", content=image).headers.get("connection") != "close"
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        while (ready := kept.get("/readyz")).status_code == 200:
            assert time.monotonic() - began < DRAIN_S
            time.sleep(0.05)
        assert ready.status_code == 503
        assert ready.json()["error"]["reason"] == "stopping"
        assert httpx.get(f"{server.url}/livez").status_code == 200
        answer = httpx.post(f"{server.url}/classify", content=image)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert time.monotonic() - began < DRAIN_S, "too slow a machine for this test"
        deadline = time.monotonic() + 20
        while accepts(server):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert time.monotonic() - began >= DRAIN_S - 0.5
        assert everything(silent) == b""
        half_body.sendall(image[20:])
        half_head.sendall(head[30:] + image)
        for connection in (half_body, half_head):
            answered = everything(connection)
            assert answered.startswith(b"HTTP/1.1 200 "), answered
            assert b"connection: close" in answered
        assert server.process.wait(timeout=20) == 0
        assert "cleanup finalized" in server.log
        assert "Traceback" not in server.log


def test_a_request_that_does_not_end(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """A client that stops sending can't keep the service: it is cut off in time, and the service ends in order."""
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)
    with serving(tmp_path, "--timeout-graceful-shutdown", "2", home=digits_home) as server:
        with begin(server, head + image[:20]) as half_body, begin(server, head[:30]):
            os.kill(server.process.pid, signal.SIGTERM)
            began = time.monotonic()
            assert_refusal(everything(half_body), 503, "stopping")
            assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - began < 15
        assert "cleanup finalized" in server.log
        assert "Traceback" not in server.log
