"""A service that is told to stop: what is in flight is answered, what comes is refused, and it ends in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from service import limits, tracing
from service.cache import shared
from service.edge.stopping import READ_WITHIN_S, StoppingServer, stopping
from service.log import PredictionLog
from tests.service.edge.test_connections import assert_refusal, everything
from tests.serving import serving as running

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from service.serving import Serving
    from tests.serving import Server

DRAIN_S = 3
KUBERNETES_KILLS_AFTER_S = 30


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
    with running(tmp_path, home=digits_home, TANDEM_DRAIN=str(DRAIN_S)) as server, contextlib.ExitStack() as stack:
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
    with running(tmp_path, "--timeout-graceful-shutdown", "2", home=digits_home) as server:
        with begin(server, head + image[:20]) as half_body, begin(server, head[:30]):
            os.kill(server.process.pid, signal.SIGTERM)
            began = time.monotonic()
            assert_refusal(everything(half_body), 503, "stopping")
            assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - began < 15
        assert "cleanup finalized" in server.log
        assert "Traceback" not in server.log


async def last_request(listening: socket.socket) -> bytes:
    """Return the answer to a request that arrives after the end has begun, on a connection from just before."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"answered"})

    config = uvicorn.Config(answer, lifespan="off", log_config=None)
    config.load()
    server = StoppingServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listening])
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    while not server.server_state.connections:
        await asyncio.sleep(0.001)
    ending = asyncio.create_task(server.shutdown([listening]))
    await asyncio.sleep(READ_WITHIN_S / 2)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = await reader.read()
    await ending
    writer.close()
    return received


def test_a_connection_from_just_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is answered: a client that was let in is not cut off because its request came a moment later."""
    monkeypatch.setattr(stopping, "has_begun", False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        received = asyncio.run(last_request(listening))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"answered")


def test_everything_ends_in_time() -> None:
    """A worker that uses all its time to drain, answer and write ends before Kubernetes, or the parent, kills it."""
    assert limits.DRAIN_S + limits.STOP_WITHIN_S + limits.END_WITHIN_S < KUBERNETES_KILLS_AFTER_S
    assert limits.LOG_WITHIN_S <= limits.CLOSE_WITHIN_S
    assert shared.FLUSH_WITHIN_S + shared.GIVE_UP_AFTER_S <= limits.CLOSE_WITHIN_S
    assert tracing.CLOSE_WITHIN_S <= limits.CLOSE_WITHIN_S < limits.END_WITHIN_S


def test_a_cache_that_fails_takes_nothing_from_the_log(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the Redis can't be left in order, the prediction log is still written, and side by side."""
    prediction_log = PredictionLog.open(f"sqlite:///{tmp_path}/log.db")

    class Failing:
        async def close(self) -> None:
            await asyncio.sleep(0.2)
            raise ConnectionError("gone")

    parts: Any = {"cache": Failing(), "prediction_log": prediction_log}
    prediction_log.feedback("one", 0, "7")
    asyncio.run(replace(serving, **parts).close())
    assert (prediction_log.written, prediction_log.dropped) == (1, 0)
