"""Clients that hang up while their images wait: nobody would read the answer, so the work ends."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

WATCH_AFTER_S = 0.02
"""An answer that comes sooner is not worth a watch, which costs more than this timer."""


@contextmanager
def ended_if_client_leaves(request: Request) -> Iterator[None]:
    """End the block, which works on a request whose body has arrived, once its client has hung up.

    Raises:
        ClientDisconnect: it has.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    has_left = False
    watch: asyncio.Task[None] | None = None

    async def until_left() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    def begin() -> None:
        nonlocal watch
        watch = loop.create_task(until_left())

    timer = loop.call_later(WATCH_AFTER_S, begin)
    try:
        yield
    except asyncio.CancelledError:
        if not has_left:
            raise  # something else ends the task
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()
