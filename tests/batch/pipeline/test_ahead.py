"""Working ahead: order, bounds, and how it ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from batch.pipeline.ahead import in_background, map_ahead
from classifier.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def test_results_keep_the_order_of_the_items() -> None:
    """What takes long comes out where it went in."""

    def slow_when_odd(number: int) -> int:
        time.sleep(0.01 * (number % 2))
        return -number

    assert list(map_ahead(slow_when_odd, range(20), threads=4, ahead=6)) == [-number for number in range(20)]


def test_never_further_ahead_than_the_bound() -> None:
    """Memory is bounded: no more than `ahead` items are taken beyond those that were asked for."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = map_ahead(abs, items(), threads=4, ahead=10)
    for asked in range(1, 50):
        next(results)
        assert taken <= asked + 10
    results.close()


def test_closing_ends_the_threads() -> None:
    """A run that stops early leaves no thread behind."""
    before = threading.active_count()
    results = map_ahead(abs, range(1000), threads=4, ahead=10)
    next(results)
    assert threading.active_count() == before + 4
    results.close()
    assert threading.active_count() == before


def test_in_the_background_items_are_made_ahead_and_no_further() -> None:
    """Items come in their order, a few of them made before they are asked for; closing ends what makes them."""
    made: list[int] = []
    ended = threading.Event()

    def items() -> Generator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            ended.set()

    results = in_background(items(), ahead=5)
    assert [next(results) for _ in range(50)] == list(range(50))
    assert len(made) <= 50 + 5
    results.close()
    assert ended.is_set()
    assert list(in_background(items(), ahead=5)) == list(range(1000))


def test_what_is_being_made_can_be_stopped() -> None:
    """Closing does not wait for an item that takes long, if that can be told to end."""
    stopped = threading.Event()

    def items() -> Generator[bool]:
        yield True
        yield stopped.wait(60)

    started = time.monotonic()
    results = in_background(items(), ahead=1, stop=stopped.set)
    assert next(results)
    results.close()
    assert time.monotonic() - started < 30


def test_what_fails_in_the_background_fails_where_it_is_asked_for() -> None:
    """An error comes out after the items before it."""

    def items() -> Generator[int]:
        yield 1
        raise ImageError("no more")

    results = in_background(items(), ahead=5)
    assert next(results) == 1
    with pytest.raises(ImageError, match="no more"):
        next(results)
