"""Overload: the service refuses in time, in the usual form, and releases everything it held.

The endpoints run in this process, with the real service behind them, so that a test can occupy its threads.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

import service.limits
from classifier.model import Model
from service.edge.application import Application
from service.edge.classify import ROUTES
from service.limits import MAX_IN_FLIGHT, buffered_bytes
from tests.service.conftest import FORM, assert_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from service.serving import Serving

    Post = Callable[..., Awaitable[httpx.Response]]


def run(test: Callable[[Post], Awaitable[None]]) -> None:
    """Run `test` in an event loop, with a function that posts to /classify."""

    async def main() -> None:
        transport = httpx.ASGITransport(Application(Starlette(), ROUTES))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await test(partial(client.post, "/classify"))

    anyio.run(main)


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.sleep(0.01)


@contextmanager
def occupied(serving: Serving) -> Iterator[None]:
    """Occupy every thread of the service."""
    release = threading.Event()
    threads = serving.scorer._threads
    holds = [threads.submit(release.wait, 60) for _ in range(threads._max_workers)]
    try:
        yield
    finally:
        release.set()
        wait(holds)


def assert_idle(serving: Serving) -> None:
    assert serving.admission.in_flight == 0
    assert serving.buffer._held == 0


def test_a_full_queue_refuses_the_next_request(serving: Serving, image: bytes) -> None:
    """The refusal comes while the others still wait; they are answered once a thread is free."""

    async def test(post: Post) -> None:
        answers: list[httpx.Response] = []

        async def keep() -> None:
            answers.append(await post(content=image))

        async with anyio.create_task_group() as waiting:
            with occupied(serving):
                for _ in range(MAX_IN_FLIGHT):
                    waiting.start_soon(keep)
                await until(lambda: serving.admission.in_flight == MAX_IN_FLIGHT)
                refused = await post(content=image)
                assert_refused(refused, 503, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
                assert not answers
        assert [answer.status_code for answer in answers] == [200] * MAX_IN_FLIGHT
        assert_idle(serving)

    run(test)


def test_waiting_for_a_thread_ends(serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that waits too long is refused, and not classified later."""
    monkeypatch.setattr(service.limits, "START_WITHIN_S", 0.05)
    monkeypatch.setattr(Model, "decode", lambda *_: pytest.fail("was decoded"))

    async def test(post: Post) -> None:
        with occupied(serving):
            refused = await post(content=image)
            assert "0.05 s" in assert_refused(refused, 503, "overloaded")
            assert "retry-after" in refused.headers
        assert_idle(serving)

    run(test)


def test_image_that_has_begun_is_answered(serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on waiting: an image that started in time gets its answer, however long that takes."""
    monkeypatch.setattr(service.limits, "START_WITHIN_S", 0.05)
    decode = Model.decode

    def take_long(model: Model, image: bytes) -> Any:
        time.sleep(0.3)
        return decode(model, image)

    monkeypatch.setattr(Model, "decode", take_long)

    async def test(post: Post) -> None:
        assert (await post(content=image)).status_code == 200
        assert_idle(serving)

    run(test)


@pytest.mark.parametrize(
    ("content_type", "head"),
    [
        ("image/png", b""),
        (FORM["Content-Type"], b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'),
    ],
    ids=["raw", "form"],
)
def test_waiting_for_a_body_ends(
    serving: Serving, image: bytes, content_type: str, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that stops or trickles in is refused, and the connection closed after the answer."""
    monkeypatch.setattr(service.limits, "BODY_WITHIN_S", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        yield head
        for byte in image:
            yield bytes([byte])
            await anyio.sleep(0.05)

    async def test(post: Post) -> None:
        refused = await post(content=trickle(), headers={"Content-Type": content_type})
        assert_refused(refused, 408, "slow_body")
        assert refused.headers["connection"] == "close"
        assert_idle(serving)

    run(test)


@pytest.mark.parametrize("form", [False, True])
def test_bodies_together_are_bounded(
    serving: Serving, image: bytes, form: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies from many clients never take more memory than the limit allows."""
    monkeypatch.setattr(serving.buffer, "size", 3 * len(image))

    async def test(post: Post) -> None:
        enough = anyio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield image
            yield image
            await enough.wait()

        async with anyio.create_task_group() as others:
            others.start_soon(partial(post, content=half()))
            await until(lambda: serving.buffer._held == 2 * len(image))
            body = {"files": {"image": image * 2}} if form else {"content": image * 2}
            assert_refused(await post(**body), 503, "overloaded")
            assert serving.buffer._held == 2 * len(image)
            assert (await post(content=image)).status_code == 200
            enough.set()
        assert_idle(serving)

    run(test)


def test_body_larger_than_the_memory(serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can never be held is too large: trying again, as after an overload, would not help."""
    monkeypatch.setattr(serving.buffer, "size", len(image) - 1)

    async def test(post: Post) -> None:
        assert_refused(await post(content=image), 413, "too_large")
        assert_refused(await post(files={"image": image}), 413, "too_large")
        assert_idle(serving)

    run(test)


@pytest.mark.parametrize(("memory", "size"), [(None, 512), (16 * 1024, 512), (1024, 128), (512, 64)])
def test_container_with_little_memory(memory: int | None, size: int) -> None:
    """Bodies take an eighth of a container's memory, in MiB."""
    assert buffered_bytes(None if memory is None else memory * 2**20) == size * 2**20
