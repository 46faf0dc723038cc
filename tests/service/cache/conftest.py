"""Real Redis servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.service.redis import RedisServer, run_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
