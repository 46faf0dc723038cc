"""Working ahead: results are made before they are asked for, in order, and never more than a bound."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_ahead(
    function: Callable[[_T], _R],
    items: Iterable[_T],
    *,
    threads: int,
    ahead: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[_R]:
    """Yield `function(item)` for each item, in order, made by threads up to `ahead` results in advance.

    Threads suffice because the codecs, the resize, SHA-256 and the network release the GIL. The bound keeps memory
    from growing if results are made faster than they are taken. At the end, `stop` is called before the calls under way
    are waited for, so that it can cut them short.
    """
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)


def in_background(items: Generator[_T], *, ahead: int, stop: Callable[[], None] = lambda: None) -> Generator[_T]:
    """Yield the items, made by one thread up to `ahead` in advance, and close `items` at the end.

    At the end, `stop` is called before the item under way is waited for, which can take minutes.
    """
    end = object()
    made = map_ahead(lambda _: next(items, end), repeat(None), threads=1, ahead=ahead, stop=stop)
    with closing(items), closing(made):
        for item in made:
            if item is end:
                return
            yield cast("_T", item)
