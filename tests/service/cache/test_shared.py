"""The level that replicas share, on a real Redis: what it gives, and that its failures cost a request nothing."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from classifier.shaping import Shaping
from service.cache import ResultCache, open_cache
from service.cache.memory import MemoryCache
from service.cache.opening import open_shared
from service.cache.shared import ANSWER_WITHIN_S, MAX_QUEUED_BYTES
from tests.registry.servers import free_port
from tests.service.redis import RedisServer, needs_redis, run_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from classifier.model import Model

pytestmark = needs_redis

CLASSES = 10
SCORES = np.linspace(0, 1, CLASSES, dtype=np.float32)
SHAPING = bytes(32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield a Redis for tests that leave it as they found it."""
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a Redis that the test may kill."""
    with run_redis(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def opened(
    url: str,
    *,
    shaping: bytes = SHAPING,
    memory: int = 0,
    classes: int = CLASSES,
    ttl_s: float = 60,
    answer_within_s: float = 10,  # a busy machine is not a slow Redis
) -> AsyncIterator[ResultCache]:
    """Yield a cache as a replica has it, without a level of its own unless it is given bytes."""
    cache = ResultCache(
        shaping=shaping,
        classes=classes,
        memory=MemoryCache(memory) if memory else None,
        shared=open_shared(url, ttl_s, answer_within_s=answer_within_s),
    )
    try:
        yield cache
    finally:
        await cache.close()


async def written(cache: ResultCache, image: bytes, scores: np.ndarray = SCORES) -> None:
    """Put scores, and wait until the Redis has them or has refused them."""
    cache.put(image, scores)
    await until(lambda: cache._shared is not None and cache._shared._writing is None)


async def until(is_true: Any, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, "this did not happen in time"
        await asyncio.sleep(0.01)


async def timed_miss(cache: ResultCache) -> float:
    """Look up an image that nobody has seen, and return how long the miss took in seconds."""
    start = time.perf_counter()
    assert await cache.get(secrets.token_bytes(32)) is None
    return time.perf_counter() - start


def test_two_replicas_share_their_results(running: RedisServer) -> None:
    """What one has classified, the other need not; its process then has it, too."""

    async def scenario() -> None:
        image = secrets.token_bytes(32)
        async with opened(running.url) as one, opened(running.url, memory=10_000) as other:
            assert await other.get(image) is None
            await written(one, image)
            for level in ("redis", "memory"):
                hit = await other.get(image)
                assert hit is not None
                assert hit[1] == level
                assert hit[0].tobytes() == SCORES.tobytes()
                assert not hit[0].flags.writeable
            counts = other.counts["redis"]
            assert (counts.hits, counts.misses, counts.errors) == (1, 1, 0)
            assert (other.counts["memory"].hits, other.counts["memory"].misses) == (1, 2)

    asyncio.run(scenario())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=arrays(np.float32, CLASSES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_every_bit_comes_back_from_a_redis(running: RedisServer, scores: np.ndarray) -> None:
    """Denormals and negative zero included."""

    async def scenario() -> None:
        image = secrets.token_bytes(32)
        async with opened(running.url) as cache:
            await written(cache, image, scores)
            hit = await cache.get(image)
            assert hit is not None
            assert hit[0].tobytes() == scores.tobytes()

    asyncio.run(scenario())


def test_many_lookups_go_together(running: RedisServer) -> None:
    """200 requests at once each get their own result, and the Redis gets a few commands."""

    async def scenario() -> None:
        images = [secrets.token_bytes(32) for _ in range(200)]
        async with opened(running.url) as cache:
            for number, image in enumerate(images):
                cache.put(image, SCORES * np.float32(number))
            await until(lambda: cache._shared is not None and cache._shared._writing is None)
            await cache.get(images[0])  # connects
            with running.client as client:
                client.config_resetstat()
                hits = await asyncio.gather(*map(cache.get, images))
                calls = client.info("commandstats")["cmdstat_mget"]["calls"]
        for number, hit in enumerate(hits):
            assert hit is not None
            assert hit[0].tobytes() == (SCORES * np.float32(number)).tobytes()
        assert calls <= 3

    asyncio.run(scenario())


def test_keys_have_a_prefix_and_end(running: RedisServer) -> None:
    """Keys begin with `tandem:v1:`, and each ends after TANDEM_CACHE_TTL."""

    async def scenario() -> None:
        image = secrets.token_bytes(32)
        async with opened(running.url, ttl_s=1000) as cache:
            await written(cache, image)
        with running.client as client:
            [key] = client.keys(f"*{image.hex()}")
            assert key == b"tandem:v1:" + SHAPING[:16].hex().encode() + b":" + image.hex().encode()
            assert 900 < client.ttl(key) <= 1000

    asyncio.run(scenario())


def test_whatever_shapes_scores_is_part_of_the_key(running: RedisServer, model: Model) -> None:
    """Another digest, engine, version, device, precision, instruction set, batch size, library or limit never hits."""
    same = Shaping.of(model)
    name, version, device, precision, instruction_set, batch_size = same.numerics
    others = [
        replace(same, digest="sha256:" + "0" * 64),
        *(
            replace(same, numerics=numerics)
            for numerics in (
                ("another", version, device, precision, instruction_set, batch_size),
                (name, "9.9.9", device, precision, instruction_set, batch_size),
                (name, version, "cuda", precision, instruction_set, batch_size),
                (name, version, device, "fp99", instruction_set, batch_size),
                (name, version, device, precision, "sse1", batch_size),
                (name, version, device, precision, instruction_set, 99),
            )
        ),
        *(replace(same, versions=same.versions | {library: "0"}) for library in same.versions),
        replace(same, limits=replace(same.limits, max_pixels=1)),
    ]
    assert {"tandem", "pillow", "libjpeg_turbo", "zlib", "webp"} == set(same.versions)

    async def scenario() -> None:
        image = secrets.token_bytes(32)
        async with opened(running.url, shaping=same.sha256) as cache:
            await written(cache, image)
            assert await cache.get(image) is not None
        async with opened(running.url, shaping=Shaping.of(model).sha256) as cache:
            assert await cache.get(image) is not None
        for other in others:
            async with opened(running.url, shaping=other.sha256) as cache:
                assert await cache.get(image) is None, other
                assert cache.counts["redis"].errors == 0

    asyncio.run(scenario())


def test_the_variables_open_it(
    running: RedisServer, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TANDEM_CACHE_URL and _TTL are enough for two services to share."""
    monkeypatch.setenv("TANDEM_CACHE_URL", f"{running.url}/0")
    monkeypatch.setenv("TANDEM_CACHE_TTL", "100")

    async def scenario() -> None:
        image, classes = secrets.token_bytes(32), len(model.config.labels)
        one, other = open_cache(model), open_cache(model)
        assert one is not None
        assert other is not None
        await written(one, image, np.ones(classes, np.float32))
        hit = await other.get(image)
        assert hit is not None
        assert hit[1] == "redis"
        await one.close()
        await other.close()

    asyncio.run(scenario())


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


async def eventually_shared(cache: ResultCache) -> None:
    """Assert that results are written and found before long."""

    async def is_shared() -> bool:
        image = secrets.token_bytes(32)
        await written(cache, image)
        return await cache.get(image) is not None

    deadline = time.monotonic() + 20
    while not await is_shared():
        assert time.monotonic() < deadline, "the Redis is not used again"
        await asyncio.sleep(0.05)


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
    """A service that ends is not held up for longer than a second or two."""

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
        cache.put(secrets.token_bytes(32), SCORES)
        return time.perf_counter() - start

    assert asyncio.run(scenario()) < 4


def test_closing_writes_what_waits(running: RedisServer) -> None:
    """Results of the last requests reach the other replicas."""

    async def scenario() -> None:
        images = [secrets.token_bytes(32) for _ in range(300)]
        async with opened(running.url) as cache:
            for image in images:
                cache.put(image, SCORES)
        async with opened(running.url) as other:
            assert all([await other.get(image) is not None for image in images])

    asyncio.run(scenario())


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


@pytest.mark.parametrize("in_file", [True, False])
def test_a_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    """It comes from a file or from the URL; a missing or wrong one is a line in the log that doesn't show it."""
    right, wrong = "pa ss/wörd", "wr@ng/one"

    async def scenario(server: RedisServer) -> None:
        for password in (right, wrong, None):
            url = server.url
            if password is not None and in_file:
                (tmp_path / "password").write_text(f"{password}\n")
                monkeypatch.setenv("TANDEM_CACHE_PASSWORD_FILE", str(tmp_path / "password"))
            elif password is not None:
                quoted = {right: "pa%20ss%2Fw%C3%B6rd", wrong: "wr%40ng%2Fone"}[password]
                url = url.replace("//", f"//:{quoted}@")
            else:
                monkeypatch.delenv("TANDEM_CACHE_PASSWORD_FILE", raising=False)
            async with opened(url) as cache:
                if password == right:
                    await eventually_shared(cache)
                    assert not caplog.records
                else:
                    await timed_miss(cache)
                    await written(cache, secrets.token_bytes(32))
                    assert cache.dropped == 1

    with run_redis(tmp_path / "redis", "--requirepass", right) as server:
        asyncio.run(scenario(server))
    assert "fail" in caplog.text
    for secret in (right, wrong, "pa%20ss", "wr%40ng"):
        assert secret not in caplog.text


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


def test_a_unix_socket(tmp_path: Path) -> None:
    """`unix://` names one."""

    async def scenario() -> None:
        async with opened(f"unix://{tmp_path}/redis.sock") as cache:
            await eventually_shared(cache)

    with run_redis(tmp_path / "redis", "--unixsocket", str(tmp_path / "redis.sock")):
        asyncio.run(scenario())


def test_tls(tmp_path: Path) -> None:
    """`rediss://` checks the server's certificate: by the authority that the URL names, or else the system's."""
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    files = ("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem")

    async def scenario() -> None:
        async with opened(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.pem") as cache:
            await eventually_shared(cache)
        async with opened(f"rediss://127.0.0.1:{port}") as cache:
            await written(cache, secrets.token_bytes(32))
            assert cache.dropped == 1

    options = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", f"{tmp_path}/ca.pem")
    with run_redis(tmp_path / "redis", *options, *files):
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


def test_a_client_that_hangs_up_takes_no_other_with_it(running: RedisServer) -> None:
    """A cancelled lookup leaves those beside it their results, and the connection its order."""

    async def scenario() -> None:
        images = [secrets.token_bytes(32) for _ in range(20)]
        async with opened(running.url) as cache:
            for number, image in enumerate(images):
                cache.put(image, SCORES * np.float32(number))
            await until(lambda: cache._shared is not None and cache._shared._writing is None)
            lookups = [asyncio.create_task(cache.get(image)) for image in images]
            await asyncio.sleep(0)
            for lookup in lookups[::2]:
                lookup.cancel()
            for number, lookup in list(enumerate(lookups))[1::2]:
                hit = await lookup
                assert hit is not None
                assert hit[0].tobytes() == (SCORES * np.float32(number)).tobytes()
            assert all([await cache.get(image) is not None for image in images])

    asyncio.run(scenario())
