"""The level that replicas share, on a real Redis: which results they find, and how they reach it."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from classifier.shaping import Shaping
from service.cache import open_cache
from tests.registry.servers import free_port
from tests.service.cache.caches import CLASSES, SCORES, SHAPING, eventually_shared, opened, timed_miss, until, written
from tests.service.redis import RedisServer, needs_redis, run_redis

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model

pytestmark = needs_redis


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
    """1,000 requests at once each get their own result, and nobody waits for more than two commands."""

    async def scenario() -> None:
        images = [secrets.token_bytes(32) for _ in range(1000)]
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
        assert calls <= 2

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
