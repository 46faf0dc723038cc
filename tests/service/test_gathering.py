"""Images that wait for the engine go together, and none waits without need."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from classifier.errors import EngineError
from service.gathering import Execution, Gatherer

if TYPE_CHECKING:
    from numpy.typing import NDArray

WITHIN_S = 20


class HeldEngine:
    """An engine whose runs wait for a permit. Gives each image the value of its first pixel as its score.

    The real ones can't be held in the middle of a run.
    """

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.sizes: list[int] = []

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(images_nhwc))
        self.begun.release()
        assert self.permits.acquire(timeout=WITHIN_S)
        if (images_nhwc == 255).all():
            raise EngineError("the device failed")
        return images_nhwc[:, 0, 0, :1].astype(np.float32)


class Gathered:
    """A gatherer with a held engine, and what it has done."""

    def __init__(self, *, size: int = 4, executions: int = 1) -> None:
        self.engine = HeldEngine()
        self.done: list[Execution] = []
        engine: Any = self.engine
        self.gatherer = Gatherer(engine, size=size, executions=executions, done=self.done.append)

    def add(self, value: int) -> None:
        self.gatherer.add(np.full((2, 2, 3), value, np.uint8), value)


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_lone_image_runs_at_once(pool: ThreadPoolExecutor) -> None:
    """It waits for nobody and for no timer."""
    gathered = Gathered()
    gathered.engine.permits.release()
    gathered.add(7)
    assert [(e.items, e.scores.tolist()) for e in gathered.done if e.scores is not None] == [((7,), [[7.0]])]


def test_what_arrives_meanwhile_goes_together(pool: ThreadPoolExecutor) -> None:
    """Ten images behind a busy engine of four: executions of 1, 4, 4 and 2, in order, each image with its own score."""
    gathered = Gathered(size=4)
    first = pool.submit(gathered.add, 0)
    assert gathered.engine.begun.acquire(timeout=WITHIN_S)
    for value in range(1, 11):
        gathered.add(value)  # returns at once: the thread is free for the next image
    gathered.engine.permits.release(4)
    first.result(WITHIN_S)
    assert gathered.engine.sizes == [1, 4, 4, 2]
    scores = [float(s) for e in gathered.done if e.scores is not None for s in e.scores[:, 0]]
    assert scores == [item for e in gathered.done for item in e.items] == list(range(11))


def test_every_device_is_kept_busy(pool: ThreadPoolExecutor) -> None:
    """With two devices, two executions run side by side, and the third image waits."""
    gathered = Gathered(executions=2)
    runs = [pool.submit(gathered.add, value) for value in (1, 2)]
    for _ in runs:
        assert gathered.engine.begun.acquire(timeout=WITHIN_S)
    gathered.add(3)
    assert gathered.engine.sizes == [1, 1]
    gathered.engine.permits.release(3)
    for run in runs:
        run.result(WITHIN_S)
    assert sorted(item for e in gathered.done for item in e.items) == [1, 2, 3]


def test_a_failed_execution_fails_its_images_alone(pool: ThreadPoolExecutor) -> None:
    """The next execution runs, and the gatherer takes images afterwards."""
    gathered = Gathered(size=1)
    gathered.engine.permits.release(3)
    for value in (255, 1, 2):
        gathered.add(value)
    assert [(e.items, e.error is not None) for e in gathered.done] == [((255,), True), ((1,), False), ((2,), False)]


def test_a_failed_report_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """If an execution can't be reported, the log says why, and the next image still runs."""
    gathered = Gathered(size=1)
    gathered.engine.permits.release(2)

    def fail(execution: Execution) -> None:
        gathered.done.append(execution)
        raise OSError("no space left on device")

    gathered.gatherer._done = fail
    for value in (1, 2):
        gathered.add(value)
    assert [e.items for e in gathered.done] == [(1,), (2,)]
    assert [record.message for record in caplog.records] == ["Could not report a run of the engine"] * 2


def test_no_image_is_lost_between_threads(pool: ThreadPoolExecutor) -> None:
    """2,000 images from four threads: each has its score once."""
    gathered = Gathered(size=3)
    gathered.engine.permits.release(2000)
    list(pool.map(lambda number: gathered.add(number % 250), range(2000)))
    items = [item for e in gathered.done for item in e.items]
    scores = [float(s) for e in gathered.done if e.scores is not None for s in e.scores[:, 0]]
    assert scores == items
    assert sorted(items) == sorted(number % 250 for number in range(2000))
