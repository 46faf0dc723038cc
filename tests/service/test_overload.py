"""More than the service can take: an answer of the usual form in time, and all of it given back.

The endpoints run in this process, with the real service behind them, so that a test can hold its threads.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import bentoml
import httpx
import pytest
from starlette.applications import Starlette

import service.http
import service.uploads
from service.http import BODY_WITHIN_S, MAX_IN_FLIGHT, ROUTES, START_WITHIN_S
from tests.service.test_http import FORM, assert_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def served() -> Any:
    """Return BentoML's service object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BentoML calls what pathspec has deprecated
        from service.service import Classifier
    return Classifier


@pytest.fixture
def classifier(served: Any, digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the service that answers."""
    monkeypatch.setenv("TANDEM_HOME", str(digits_home))
    classifier = served.inner()
    monkeypatch.setattr(bentoml, "get_current_service", lambda: classifier)
    return classifier


def run(test: Callable[[Post], Awaitable[None]]) -> None:
    """Run `test` in an event loop, with a function that posts to /classify."""

    async def main() -> None:
        transport = httpx.ASGITransport(Starlette(routes=ROUTES))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await test(partial(client.post, "/classify"))

    anyio.run(main)


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.sleep(0.01)


async def hold(workers: anyio.CapacityLimiter) -> None:
    """Take every thread of the service."""
    for _ in range(int(workers.total_tokens)):
        await workers.acquire_on_behalf_of(object())


def assert_idle(classifier: Any) -> None:
    assert classifier.in_flight == 0
    assert classifier.buffer._held == 0


def test_one_more_than_may_wait_is_told_to_come_back(classifier: Any, image: bytes) -> None:
    """Nobody hangs: it is answered while the others still wait, and these are served when a thread is free."""

    async def test(post: Post) -> None:
        async with anyio.create_task_group() as waiting:
            answers: list[httpx.Response] = []

            async def keep() -> None:
                answers.append(await post(content=image))

            borrower = object()
            tokens = int(classifier.workers.total_tokens)
            classifier.workers.total_tokens = 1
            await classifier.workers.acquire_on_behalf_of(borrower)
            for _ in range(MAX_IN_FLIGHT):
                waiting.start_soon(keep)
            await until(lambda: classifier.in_flight == MAX_IN_FLIGHT)
            refused = await post(content=image)
            assert_refused(refused, 503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert not answers
            classifier.workers.release_on_behalf_of(borrower)
            classifier.workers.total_tokens = tokens
        assert [answer.status_code for answer in answers] == [200] * MAX_IN_FLIGHT
        assert_idle(classifier)

    run(test)


def test_waiting_for_a_thread_ends(classifier: Any, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that can't be begun in time is refused, and not classified later for nobody."""
    monkeypatch.setattr(service.http, "START_WITHIN_S", 0.05)
    monkeypatch.setattr(classifier, "classify_image", lambda *_: pytest.fail("was classified"))

    async def test(post: Post) -> None:
        await hold(classifier.workers)
        refused = await post(content=image)
        assert "0.05 s" in assert_refused(refused, 503, "overloaded")
        assert "retry-after" in refused.headers
        assert_idle(classifier)

    run(test)


def test_image_that_has_begun_is_answered(classifier: Any, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on waiting: what was begun in time gets its answer, however long it takes."""
    monkeypatch.setattr(service.http, "START_WITHIN_S", 0.05)
    classify_image = classifier.classify_image

    def take_long(image: bytes, top_k: int) -> Any:
        time.sleep(0.3)
        return classify_image(image, top_k)

    monkeypatch.setattr(classifier, "classify_image", take_long)

    async def test(post: Post) -> None:
        assert (await post(content=image)).status_code == 200
        assert_idle(classifier)

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
    classifier: Any, image: bytes, content_type: str, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that stops, or trickles, is not waited for; the connection is closed behind the answer."""
    monkeypatch.setattr(service.http, "BODY_WITHIN_S", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        yield head
        for byte in image:
            yield bytes([byte])
            await anyio.sleep(0.05)

    async def test(post: Post) -> None:
        refused = await post(content=trickle(), headers={"Content-Type": content_type})
        assert_refused(refused, 408, "slow_body")
        assert refused.headers["connection"] == "close"
        assert_idle(classifier)

    run(test)


@pytest.mark.parametrize("form", [False, True])
def test_bodies_together_are_bounded(
    classifier: Any, image: bytes, form: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many send at a time, they fill no more memory than there is for them."""
    monkeypatch.setattr(service.uploads, "MAX_BUFFERED_BYTES", 3 * len(image))

    async def test(post: Post) -> None:
        enough = anyio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield image
            yield image
            await enough.wait()

        async with anyio.create_task_group() as others:
            others.start_soon(partial(post, content=half()))
            await until(lambda: classifier.buffer._held == 2 * len(image))
            body = {"files": {"image": image * 2}} if form else {"content": image * 2}
            assert_refused(await post(**body), 503, "overloaded")
            assert classifier.buffer._held == 2 * len(image)
            assert (await post(content=image)).status_code == 200
            enough.set()
        assert_idle(classifier)

    run(test)


def test_our_timeouts_end_before_bentoml_s(served: Any) -> None:
    """BentoML's own answer is not of our form."""
    assert served.config["traffic"]["timeout"] > BODY_WITHIN_S + START_WITHIN_S
