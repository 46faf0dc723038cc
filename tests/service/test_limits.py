"""Overload: the service refuses in time, in the usual form, and releases everything it held.

The endpoints run in this process, with the real service behind them, so that a test can occupy its threads.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from classifier.model import Model
from service import limits
from service import serving as serving_module
from service.access.options import Access
from service.cache import open_cache
from service.edge.application import Application
from service.edge.classify import ROUTES
from service.edge.guarding import Guarded
from service.limits import MAX_IN_FLIGHT, buffered_bytes
from service.serving import Serving
from tests.service.conftest import FORM, assert_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from service.exchange import Exchange

    Post = Callable[..., Awaitable[httpx.Response]]


def run(test: Callable[[Post], Awaitable[None]]) -> None:
    """Run `test` in an event loop, with a function that posts to /classify from a new client, or `sender`."""

    async def main() -> None:
        application = Application(Starlette(), ROUTES, [partial(Guarded, access=Access.from_environment())])
        numbers = itertools.count()

        async def post(*, path: str = "/classify", sender: str | None = None, **request: Any) -> httpx.Response:
            address = sender or f"10.0.{next(numbers)}.1"
            transport = httpx.ASGITransport(application, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.post(path, **request)

        await test(post)

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
    assert not serving.admission._of
    assert not serving.buffer._of


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


@pytest.mark.parametrize("path", ["/classify", "/classify_batch"])
def test_a_client_that_hangs_up_is_not_served(
    serving: Serving, image: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are not classified, and what it held is free at once; metrics and log see status 499."""
    monkeypatch.setattr(Model, "decode", lambda *_: pytest.fail("was decoded"))
    noted: list[Exchange] = []
    monkeypatch.setattr(Serving, "note", lambda _, exchange, elapsed_s: exchange.settle() or noted.append(exchange))
    form = httpx.Request("POST", "http://service", files=[("images", image)] * 2)
    body, headers = (image, []) if path == "/classify" else (form.read(), [(n.lower(), v) for n, v in form.headers.raw])

    async def test(_: Post) -> None:
        application = Application(Starlette(), ROUTES)
        messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(messages)

        async def send(_: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        with occupied(serving), anyio.fail_after(10):
            await application(scope, receive, send)
            assert_idle(serving)
            assert serving.scorer.waiting == 0

    run(test)
    [exchange] = noted
    images = 1 if path == "/classify" else 2
    assert [(o.index, o.status, o.reason) for o in exchange.outcomes] == [
        (index, 499, "client_closed") for index in range(images)
    ]


def test_large_batches_leave_the_event_loop_free(
    serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their images are hashed, and their labels chosen, in other threads."""
    monkeypatch.setenv("TANDEM_CACHE", "1MiB")
    monkeypatch.setattr(serving_module, "_HASHED_AT_ONCE", len(image))
    seen: list[int] = []
    cached = replace(serving, cache=open_cache(serving.model))
    monkeypatch.setattr(Serving, "current", lambda: cached)
    for of, name in ((serving_module, "_sha256"), (Model, "top_k")):
        called = getattr(of, name)
        monkeypatch.setattr(of, name, lambda *args, c=called: seen.append(threading.get_ident()) or c(*args))

    async def test(post: Post) -> None:
        answer = await post(path="/classify_batch", files=[("images", image)] * 2)
        assert len(answer.json()["results"]) == 2
        assert len(seen) == 3
        assert threading.get_ident() not in seen

    run(test)


def test_decoded_images_are_bounded(serving: Serving, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine is busy, a few images are decoded ahead of it; the others wait as they were sent."""
    release = threading.Event()
    engine_run = model.engine.run

    def held(images_nhwc: Any) -> Any:
        assert release.wait(20)
        return engine_run(images_nhwc)

    monkeypatch.setattr(serving.scorer._gatherer, "_engine", SimpleNamespace(run=held))
    pixels = model.decode(model.golden.images[0]).pixels
    most = 2 * serving.scorer.busy_size
    decoded: list[int] = []

    def decode() -> Any:
        decoded.append(1)
        return pixels

    async def test(_: Post) -> None:
        async with anyio.create_task_group() as waiting:
            for _ in range(2 * most):
                waiting.start_soon(serving.scorer.score, decode)
            with anyio.move_on_after(1):
                await until(lambda: len(decoded) > most)
            ahead = len(decoded)
            release.set()
        assert ahead <= most
        assert len(decoded) == 2 * most
        assert serving.scorer.waiting == 0

    run(test)


def test_a_failed_request_has_no_labels(serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was scored in vain, and one that was not reached, count as what the client got."""
    noted: list[Exchange] = []
    monkeypatch.setattr(Serving, "note", lambda _, exchange, elapsed_s: exchange.settle() or noted.append(exchange))
    monkeypatch.setattr(limits, "BATCH_WITHIN_S", 0.5)
    decode, first = Model.decode, threading.Semaphore(1)

    def take_long(model: Model, *args: Any) -> Any:
        if not first.acquire(blocking=False):
            time.sleep(1)
        return decode(model, *args)

    monkeypatch.setattr(Model, "decode", take_long)

    async def test(post: Post) -> None:
        assert_refused(await post(path="/classify_batch", files=[("images", image)] * 4), 503, "overloaded")

    run(test)
    [exchange] = noted
    assert any(outcome.scored for outcome in exchange.outcomes)
    found = sorted((o.index, o.status, o.reason, o.size_bytes, o.predictions) for o in exchange.outcomes)
    assert found == [(index, 503, "overloaded", len(image), ()) for index in range(4)]


def test_a_client_over_its_share_is_refused(serving: Serving, image: bytes) -> None:
    """One client takes half of the queue at most; others are still answered, and it is, too, once it waits for less."""
    share = MAX_IN_FLIGHT // 2

    async def test(post: Post) -> None:
        answers: list[httpx.Response] = []

        async def keep(sender: str) -> None:
            answers.append(await post(content=image, sender=sender))

        async with anyio.create_task_group() as waiting:
            with occupied(serving):
                # Neighbours in a /64 are one client, and an IPv4 address written as IPv6 is the same one.
                for number in range(share):
                    waiting.start_soon(keep, f"2001:db8::{number:x}")
                await until(lambda: serving.admission.in_flight == share)
                refused = await post(content=image, sender="2001:db8::ffff:1")
                assert_refused(refused, 429, "over_share")
                assert int(refused.headers["retry-after"]) >= 1
                for sender in ("2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"):
                    waiting.start_soon(keep, sender)
                await until(lambda: serving.admission.in_flight == share + 3)
        assert {answer.status_code for answer in answers} == {200}
        assert (await post(content=image, sender="2001:db8::1")).status_code == 200
        assert_idle(serving)

    run(test)


def test_a_client_over_its_share_of_memory_is_refused(
    serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unfinished bodies of one client leave room for others'. One body alone may take more than the share."""
    monkeypatch.setattr(serving.buffer, "size", 8 * len(image))

    async def test(post: Post) -> None:
        enough = anyio.Event()

        async def unfinished() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield image
            await enough.wait()

        async with anyio.create_task_group() as others:
            others.start_soon(partial(post, content=unfinished(), sender="192.0.2.1"))
            await until(lambda: serving.buffer._held == 3 * len(image))
            assert_refused(await post(content=image * 2, sender="192.0.2.1"), 429, "over_share")
            assert (await post(content=image, sender="192.0.2.1")).status_code == 200
            assert (await post(content=image + bytes(3 * len(image)), sender="192.0.2.2")).status_code == 200
            enough.set()
        assert (await post(content=image + bytes(6 * len(image)), sender="192.0.2.1")).status_code == 200
        assert_idle(serving)

    run(test)


def test_waiting_for_a_thread_ends(serving: Serving, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that waits too long is refused, and not classified later."""
    monkeypatch.setattr(limits, "START_WITHIN_S", 0.05)
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
    monkeypatch.setattr(limits, "START_WITHIN_S", 0.05)
    decode = Model.decode

    def take_long(model: Model, *args: Any) -> Any:
        time.sleep(0.3)
        return decode(model, *args)

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
    monkeypatch.setattr(limits, "BODY_WITHIN_S", 0.2)

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
