"""The level of one process: it forgets what was used longest ago, and stays within its bytes."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.cache.memory import MemoryCache, size_of

KEYS = st.sampled_from([bytes([n]) * 32 for n in range(8)])
VALUES = st.integers(0, 300).map(bytes)


class AgainstAModel(RuleBasedStateMachine):
    """The cache beside a list of pairs, the one used last at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = MemoryCache(1200)
        self.pairs: list[tuple[bytes, bytes]] = []

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.cache.put(key, value)
        self.pairs = [*((k, v) for k, v in self.pairs if k != key), (key, value)]
        while sum(size_of(*pair) for pair in self.pairs) > 1200:
            self.pairs.pop(0)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        expected = dict(self.pairs).get(key)
        assert self.cache.get(key) == expected
        if expected is not None:
            self.pairs = [*((k, v) for k, v in self.pairs if k != key), (key, expected)]

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.cache) == len(self.pairs)
        assert self.cache.held_bytes == sum(size_of(*pair) for pair in self.pairs) <= 1200


TestAgainstAModel = AgainstAModel.TestCase


def test_a_value_that_can_never_fit_forgets_nothing() -> None:
    """It is not kept, and nothing makes room for it."""
    cache = MemoryCache(1000)
    cache.put(b"a", b"1")
    cache.put(b"b", bytes(1000))
    assert (cache.get(b"a"), cache.get(b"b")) == (b"1", None)


@pytest.mark.parametrize("classes", [2, 1000])
def test_a_full_cache_takes_no_more_memory_than_it_may(classes: int) -> None:
    """Tables, keys and Python's own bytes count, measured by the allocator while results come and go."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = MemoryCache(8 * 2**20)
        for _ in range(60_000):
            cache.put(os.urandom(32), bytes(4 * classes + 1))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * cache.max_bytes < taken <= cache.max_bytes
    assert 0.95 * cache.max_bytes < cache.held_bytes <= cache.max_bytes
