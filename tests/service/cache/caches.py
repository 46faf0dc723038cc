"""Caches as replicas have them, with a Redis between, and waits for what they do in the background."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from service.cache import ResultCache
from service.cache.memory import MemoryCache
from service.cache.opening import open_shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


CLASSES = 10
SCORES = np.linspace(0, 1, CLASSES, dtype=np.float32)
SHAPING = bytes(32)


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
