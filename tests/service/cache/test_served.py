"""The result cache of a running service, with a real Redis that two replicas share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.service.redis import needs_redis, run_redis
from tests.serving import bentoml, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server

HEADER = "x-tandem-cache"


@pytest.fixture(scope="module")
def cached(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a service with the cache that it has by default."""
    with serving(tmp_path_factory.mktemp("cached"), home=digits_home) as server:
        yield server


def test_a_hit_is_equal_and_says_so(cached: Server, server: Server, test_folder: Path) -> None:
    """The second answer to an image is the first, byte for byte, and that of a service without a cache."""
    for path in sorted(test_folder.rglob("*.png"))[:20]:
        first, again = (httpx.post(f"{cached.url}/classify?top_k=10", content=path.read_bytes()) for _ in range(2))
        without = httpx.post(f"{server.url}/classify?top_k=10", content=path.read_bytes())
        assert first.content == again.content == without.content
        assert (first.headers[HEADER], again.headers[HEADER]) == ("miss", "hit")
        assert HEADER not in without.headers


def test_top_k_is_applied_afterwards(cached: Server, image: bytes) -> None:
    """A hit answers any top_k."""
    for top_k in (10, 3, 1):
        answer = httpx.post(f"{cached.url}/classify", content=image, params={"top_k": top_k})
        assert len(answer.json()["predictions"]) == top_k
    assert answer.headers[HEADER] == "hit"


def test_a_batch_says_how_much_was_kept(cached: Server, test_folder: Path) -> None:
    """`partial` if only some of a request's images were known; a refused image says nothing."""
    images = [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[30:33]]
    sent = [images[:2], images, images, [b"no image"]]
    answers = [httpx.post(f"{cached.url}/classify_batch", files=[("images", i) for i in each]) for each in sent]
    assert [answer.headers.get(HEADER) for answer in answers] == ["miss", "partial", "hit", None]
    assert answers[1].content == answers[2].content


@needs_redis
def test_replicas_share_a_redis(digits_home: Path, tmp_path: Path, test_folder: Path) -> None:
    """What one replica has answered is a hit in the other, and a Redis that dies costs no answer."""
    images = [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[40:50]]
    with (
        run_redis(tmp_path / "redis") as redis,
        serving(tmp_path / "1", home=digits_home, TANDEM_CACHE="0", TANDEM_CACHE_URL=redis.url) as one,
        serving(tmp_path / "2", home=digits_home, TANDEM_CACHE="0", TANDEM_CACHE_URL=redis.url) as two,
    ):
        first = [httpx.post(f"{one.url}/classify", content=image) for image in images]
        deadline = time.monotonic() + 20
        while redis.client.dbsize() < len(images) and time.monotonic() < deadline:  # written in the background
            time.sleep(0.05)
        second = [httpx.post(f"{two.url}/classify", content=image) for image in images]
        assert [answer.content for answer in first] == [answer.content for answer in second]
        assert {answer.headers[HEADER] for answer in second} == {"hit"}
        redis.stop()
        third = [httpx.post(f"{two.url}/classify", content=image) for image in images]
        assert [answer.content for answer in third] == [answer.content for answer in first]
        assert "Requests are answered without it" in two.log


@pytest.mark.parametrize(
    "options", [{"TANDEM_CACHE": "much"}, {"TANDEM_CACHE_URL": "http://localhost:6379"}, {"TANDEM_CACHE_TTL": "-1"}]
)
def test_a_wrong_setting_ends_the_start(digits_home: Path, tmp_path: Path, options: dict[str, str]) -> None:
    """One sentence that names the variable, and exit code 1."""
    done = bentoml("serve", "--port", "0", home=digits_home, bentoml_home=tmp_path, check=False, timeout=60, **options)
    assert done.returncode == 1
    assert next(iter(options)) in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
