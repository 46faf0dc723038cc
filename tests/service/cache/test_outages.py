"""A Redis that is slow, full, gone, read-only or talks nonsense costs a line in the log, and no request."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.cache.shared import ANSWER_WITHIN_S, MAX_QUEUED_BYTES
from service.logs import REQUEST_ID
from tests.registry.servers import free_port
from tests.service.cache.caches import SCORES, eventually_shared, opened, timed_miss, written
from tests.service.redis import RedisServer, needs_redis, run_redis

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = needs_redis


@pytest.mark.parametrize("kind", ["text", "short", "empty", "list", "hash", "swapped"])
def test_garbage_is_a_miss(running: RedisServer, kind: str) -> None:
    """Another program's value or type under our key, or our value under another key, is classified again."""

    async def scenario() -> None:
        image, neighbour = secrets.token_bytes(32), secrets.token_bytes(32)
        async with opened(running.url) as cache:
            await written(cache, image)
            await written(cache, neighbour, SCORES[::-1])
            with running.client as client:
                [key], [other] = client.keys(f"*{image.hex()}"), client.keys(f"*{neighbour.hex()}")
                value, swapped = client.get(key), client.get(other)
                client.delete(key)
                match kind:
                    case "text":
                        client.set(key, b"\xff" * len(value))
                    case "short":
                        client.set(key, value[:-1])
                    case "empty":
                        client.set(key, b"")
                    case "list":
                        client.lpush(key, value)
                    case "hash":
                        client.hset(key, "scores", value)
                    case _:
                        client.set(key, swapped)
            assert await cache.get(image) is None
            hit = await cache.get(neighbour)
            assert hit is not None
            assert hit[0].tobytes() == SCORES[::-1].tobytes()
            await written(cache, image)  # and heals it
            assert await cache.get(image) is not None

    asyncio.run(scenario())


def test_a_redis_that_is_down_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each lookup is a miss within the limit, with one line in the log; once the Redis is there, it is used."""
    server = RedisServer(folder=tmp_path, port=free_port())
    caplog.set_level(logging.INFO, "bentoml.tandem")

    async def scenario() -> None:
        async with opened(server.url, answer_within_s=ANSWER_WITHIN_S) as cache:
            for _ in range(50):
                assert await timed_miss(cache) < 5 * ANSWER_WITHIN_S
                cache.put(secrets.token_bytes(32), SCORES)
                await asyncio.sleep(0.005)
            assert cache.dropped > 0
            assert cache.counts["redis"].errors > 0
            server.start()
            await eventually_shared(cache)

    try:
        asyncio.run(scenario())
    finally:
        server.stop()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(line.split(" in ")[0].split(" to ")[0] for line in lines) == ["lookups", "writes"]
    assert all(f"redis://127.0.0.1:{server.port} fail" in line for line in lines)
    assert sum("work again" in record.getMessage() for record in caplog.records) == 2


def test_an_outage_belongs_to_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """The line about it doesn't have the ID of the request that met it first: it concerns all."""
    ids: list[str | None] = []

    async def scenario() -> None:
        REQUEST_ID.set("mine")
        async with opened(f"redis://127.0.0.1:{free_port()}") as cache:
            assert await cache.get(secrets.token_bytes(32)) is None
            await written(cache, secrets.token_bytes(32))

    def note(_: logging.LogRecord) -> bool:
        ids.append(REQUEST_ID.get())
        return True

    caplog.handler.addFilter(note)
    asyncio.run(scenario())
    assert ids == [None, None]


def test_a_redis_that_is_killed_and_comes_back(own: RedisServer) -> None:
    """Lookups and writes miss in between, and nobody waits longer than the limit."""

    async def scenario() -> None:
        async with opened(own.url, answer_within_s=ANSWER_WITHIN_S) as cache:
            await eventually_shared(cache)
            own.stop()
            waits = []
            for _ in range(40):
                waits.append(await timed_miss(cache))
                cache.put(secrets.token_bytes(32), SCORES)
                await asyncio.sleep(0.01)
            assert max(waits) < 5 * ANSWER_WITHIN_S
            own.start()
            await eventually_shared(cache)

    asyncio.run(scenario())


def test_a_frozen_redis_costs_a_few_requests_the_limit(own: RedisServer) -> None:
    """With SIGSTOP it accepts bytes and never answers: most misses are instant, none waits long, and it recovers."""

    async def scenario() -> None:
        async with opened(own.url, answer_within_s=ANSWER_WITHIN_S) as cache:
            await eventually_shared(cache)
            own.send(signal.SIGSTOP)
            waits = []
            for _ in range(200):
                waits.append(await timed_miss(cache))
                cache.put(secrets.token_bytes(32), SCORES)
                await asyncio.sleep(0.01)
            assert max(waits) < 10 * ANSWER_WITHIN_S
            assert sorted(waits)[len(waits) // 2] < ANSWER_WITHIN_S / 10
            assert sum(wait > 0.8 * ANSWER_WITHIN_S for wait in waits) < 20
            own.send(signal.SIGCONT)
            await eventually_shared(cache)

    asyncio.run(scenario())


def test_a_slow_redis_is_asked_less_and_less(running: RedisServer) -> None:
    """If every answer takes 150 ms, lookups pause, each time for longer, instead of costing each request the limit."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(delay_s)
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", running.port)
        await asyncio.gather(pump(reader, back, 0), pump(there, writer, 0.15))

    async def scenario() -> None:
        proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with proxy, opened(url, answer_within_s=ANSWER_WITHIN_S) as cache:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                await timed_miss(cache)
                await asyncio.sleep(0.01)
            assert 2 <= cache.counts["redis"].errors <= 6

    asyncio.run(scenario())


def test_closing_does_not_wait_for_a_frozen_redis(own: RedisServer) -> None:
    """A service that ends is not held up for longer than a second or two, and counts what it could not write."""

    async def scenario() -> float:
        async with opened(own.url) as cache:
            await eventually_shared(cache)
            own.send(signal.SIGSTOP)
            cache.put(secrets.token_bytes(32), SCORES)
            lookup = asyncio.create_task(cache.get(secrets.token_bytes(32)))
            await asyncio.sleep(0.01)
            start = time.perf_counter()
        assert await lookup is None
        assert await cache.get(secrets.token_bytes(32)) is None
        assert cache.dropped == 1
        cache.put(secrets.token_bytes(32), SCORES)
        return time.perf_counter() - start

    assert asyncio.run(scenario()) < 4


def test_a_full_redis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `maxmemory-policy noeviction` writes are refused; what it holds is still found, and the log says it once."""

    async def scenario(server: RedisServer) -> None:
        async with opened(server.url) as cache:
            image = secrets.token_bytes(32)
            await written(cache, image)
            with server.client as client:
                client.config_set("maxmemory", 1)
            for _ in range(20):
                await written(cache, secrets.token_bytes(32))
                await asyncio.sleep(0.02)
            assert cache.dropped >= 20
            assert await cache.get(image) is not None
            with server.client as client:
                client.config_set("maxmemory", 0)
            await eventually_shared(cache)

    with run_redis(tmp_path / "redis", "--maxmemory-policy", "noeviction") as server:
        asyncio.run(scenario(server))
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "writes to the result cache" in line
    assert "maxmemory" in line


def test_a_read_only_replica_is_read(own: RedisServer, tmp_path: Path) -> None:
    """Writes are refused and dropped, lookups hit."""

    async def scenario(replica: RedisServer) -> None:
        image = secrets.token_bytes(32)
        async with opened(own.url) as cache:
            await written(cache, image)
        async with opened(replica.url) as cache:
            deadline = time.monotonic() + 20
            while await cache.get(image) is None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            await written(cache, secrets.token_bytes(32))
            assert cache.dropped == 1

    with run_redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own.port)) as replica:
        asyncio.run(scenario(replica))


def test_what_is_not_a_redis(tmp_path: Path) -> None:
    """A server that answers with nonsense costs misses, never an error."""

    async def scenario() -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n*1\r\n$-5\r\n:x\r\n")
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        async with (
            server,
            opened(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", answer_within_s=ANSWER_WITHIN_S) as cache,
        ):
            for _ in range(20):
                assert await timed_miss(cache) < 10 * ANSWER_WITHIN_S
                await written(cache, secrets.token_bytes(32))
                await asyncio.sleep(0.02)
            assert cache.counts["redis"].errors > 1

    asyncio.run(scenario())


def test_writes_that_wait_are_bounded(own: RedisServer) -> None:
    """While the Redis is frozen, a flood of results neither waits nor grows the process."""

    async def scenario() -> None:
        scores = np.zeros(100_000, np.float32)
        async with opened(own.url, classes=len(scores)) as cache:
            own.send(signal.SIGSTOP)
            start = time.perf_counter()
            for _ in range(100):
                cache.put(secrets.token_bytes(32), scores)
            assert time.perf_counter() - start < 1
            assert cache._shared is not None
            assert cache._shared._queued_bytes <= MAX_QUEUED_BYTES
            assert cache.dropped >= 100 - MAX_QUEUED_BYTES // scores.nbytes

    asyncio.run(scenario())
