"""From an image to its scores: decoded in a thread, then run on the engine with the other images that wait."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from classifier.hardware import cpu_limit
from service import limits
from service.gathering import Gatherer
from service.limits import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from classifier.model import Model
    from service.cache import Level, ResultCache
    from service.gathering import Execution


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """The scores of one image, and how long they took.

    Attributes:
        scores: float32 `[classes]`, finite.
        queue_s: waiting for a thread and for the engine.
        decode_s: from bytes to pixels.
        inference_s: the execution that this image was part of.
        cached: the level of the result cache that had the scores; None if they were computed.
        decoded_from: when decoding began, by `time.perf_counter`; None if nothing was decoded.
        inferred_from: when that execution began; None if the scores come from the cache.
    """

    scores: NDArray[np.float32]
    queue_s: float = 0.0
    decode_s: float = 0.0
    inference_s: float = 0.0
    cached: Level | None = None
    decoded_from: float | None = None
    inferred_from: float | None = None


class Scorer:
    """Scores images for all requests of a worker. Its methods are called on the event loop.

    Args:
        executed: takes the number of images and the seconds of each execution, in any thread.
        cache: keeps scores of earlier images.
    """

    def __init__(
        self, model: Model, *, executed: Callable[[int, float], None], cache: ResultCache | None = None
    ) -> None:
        self.model = model
        self._executed = executed
        self._cache = cache
        info = model.engine.info
        executions = model.engine.concurrency
        # A thread that runs the engine on a GPU only waits, and should not be missing where images are decoded.
        threads = cpu_limit() + (0 if info.device == "cpu" else executions)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="scorer")
        size = info.batch_size or model.engine.busy_size
        self._busy_size = max(threads, executions * size)
        # More decoded images would only take memory: they come faster than a large model takes them.
        self._room = threading.Semaphore(2 * self._busy_size)
        self._jobs: set[_Job] = set()
        self._gatherer = Gatherer(model.engine, size=size, executions=executions, done=self._hand_out)

    @property
    def busy_size(self) -> int:
        """Images of one request that are worth having on the way at the same time."""
        return self._busy_size

    @property
    def waiting(self) -> int:
        """Images that wait for a thread or for the engine."""
        return sum(job.begun_at is None for job in self._jobs) + self._gatherer.waiting

    async def score_image(self, data: bytes, *, sha256: bytes | None) -> Scored:
        """Return the scores of an encoded image, from the cache if that has them and `sha256` is given.

        Raises:
            ImageError: it can't be decoded. See also `score`.
        """
        cache = None if sha256 is None else self._cache
        if cache is not None and sha256 is not None and (found := await cache.get(sha256)):
            scores, level = found
            return Scored(scores=scores, cached=level)
        scored = await self.score(lambda: self.model.decode(data, limits.IMAGE_LIMITS).pixels)
        if cache is not None and sha256 is not None:
            cache.put(sha256, scored.scores)
        return scored

    async def score(self, prepare: Callable[[], NDArray[np.uint8]]) -> Scored:
        """Return the scores of the image that `prepare`, called in a thread, returns as uint8 `[H, W, 3]`.

        Raises:
            ImageError: from `prepare`; or the scores are not numbers.
            Overloaded: no thread was free in time. Work that has begun is never interrupted.
            EngineError: the engine failed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(prepare, loop)
        self._jobs.add(job)
        begun = self._threads.submit(self._work, job)
        expiry = loop.call_later(limits.START_WITHIN_S, _expire, job, begun)
        try:
            scored: Scored = await job.future
        finally:
            expiry.cancel()
            self._jobs.remove(job)
            if begun.cancel():  # nobody waits for it any more
                job.prepare = None  # the threads' queue keeps the job; it must not keep the image
        self.model.check_finite(scored.scores)
        return scored

    def close(self) -> None:
        """End the threads; images that wait are not scored."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self, job: _Job) -> None:
        assert job.prepare is not None
        self._room.acquire()
        job.begun_at = perf_counter()
        try:
            pixels = job.context.run(job.prepare)  # its log lines have the request's ID
        except Exception as error:  # noqa: BLE001  # the request reports it
            self._room.release()
            job.loop.call_soon_threadsafe(_fail, job, error)
            return
        job.decoded_at = perf_counter()
        self._gatherer.add(pixels, job)

    def _hand_out(self, execution: Execution) -> None:
        self._room.release(len(execution.items))
        loop = execution.items[0].loop
        with suppress(RuntimeError):  # the loop is closed: the worker ends, and nobody waits
            loop.call_soon_threadsafe(_deliver, execution)  # first of all: counting it may fail
        self._executed(len(execution.items), execution.elapsed_s)


class _Job:
    """An image on its way, and when it passed each station; `begun_at` is None while it waits for a thread."""

    __slots__ = ("begun_at", "context", "decoded_at", "future", "loop", "prepare", "submitted_at")

    def __init__(self, prepare: Callable[[], NDArray[np.uint8]], loop: asyncio.AbstractEventLoop) -> None:
        self.prepare: Callable[[], NDArray[np.uint8]] | None = prepare
        self.loop, self.context = loop, copy_context()
        self.future: asyncio.Future[Scored] = loop.create_future()
        self.submitted_at = self.decoded_at = perf_counter()
        self.begun_at: float | None = None


def _expire(job: _Job, begun: Future[None]) -> None:
    if begun.cancel():
        _fail(job, Overloaded(f"the images before this one take longer than {limits.START_WITHIN_S} s; try again"))


def _fail(job: _Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _deliver(execution: Execution) -> None:
    for number, job in enumerate(execution.items):
        if execution.scores is None:
            _fail(job, execution.error or RuntimeError("the engine gave no scores"))
        elif not job.future.done():
            job.future.set_result(
                Scored(
                    scores=execution.scores[number],
                    queue_s=job.begun_at - job.submitted_at + execution.started - job.decoded_at,
                    decode_s=job.decoded_at - job.begun_at,
                    inference_s=execution.elapsed_s,
                    decoded_from=job.begun_at,
                    inferred_from=execution.started,
                )
            )
