"""Memory that threads share: never more than there is, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from classifier.images.memory import MemoryBudget


def test_never_more_than_there_is() -> None:
    """However many threads come with however much, what they hold together fits; and all of them get through."""
    memory, held, most, lock = MemoryBudget(100), 0, 0, threading.Lock()

    def hold(size: int) -> None:
        nonlocal held, most
        with memory.take(size):
            with lock:
                held += size
                most = max(most, held)
            threading.Event().wait(0.0005)
            with lock:
                held -= size

    sizes = [random.Random(0).choice([1, 10, 40, 60, 100]) for _ in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(hold, sizes))
    assert 0 < most <= 100


def test_more_than_there_is_runs_alone() -> None:
    """What would never fit is not refused here: that is what limits are for."""
    memory = MemoryBudget(100)
    with memory.take(1000):
        pass
    with memory.take(100):
        pass


def test_much_does_not_wait_for_ever() -> None:
    """Who needs much is served before those who came later and need little."""
    memory, order = MemoryBudget(100), []

    def hold(size: int) -> None:
        with memory.take(size):
            order.append(size)

    with memory.take(50):
        large = threading.Thread(target=hold, args=(100,))
        large.start()
        while not memory._turn.locked():
            pass
        small = [threading.Thread(target=hold, args=(1,)) for _ in range(5)]
        for thread in small:
            thread.start()
        assert order == []
    for thread in (large, *small):
        thread.join()
    assert order == [100, 1, 1, 1, 1, 1]


def test_a_failure_gives_its_memory_back() -> None:
    memory = MemoryBudget(100)
    for _ in range(3):
        with pytest.raises(OSError, match="truncated"), memory.take(100):
            raise OSError("truncated")
