"""Images that wait for the engine go together, and none waits for a timer.

A thread that brings an image to an idle engine runs it at once. What arrives while the engine runs is gathered, and
goes together as soon as it is free. So a lone image pays nothing, and a busy GPU gets full batches.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from classifier.engines import Engine

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Execution:
    """One run of the engine.

    Attributes:
        items: what was given with each image.
        scores: float32 `[N, classes]`; None if the engine failed.
        error: why it failed.
        started: by `time.perf_counter`.
    """

    items: Sequence[Any]
    scores: NDArray[np.float32] | None
    error: Exception | None
    started: float
    elapsed_s: float


class Gatherer:
    """Runs an engine on images from many threads, a few executions at a time.

    An image's scores don't depend on its company: the export has checked that, and engines whose scores would depend
    run each image alone.

    Args:
        size: images per execution, at most.
        executions: how many may be under way at the same time, by `Engine.concurrency`.
        done: takes each execution, in the thread that ran it.
    """

    def __init__(self, engine: Engine, *, size: int, executions: int, done: Callable[[Execution], None]) -> None:
        self._engine, self._size, self._executions, self._done = engine, size, executions, done
        self._lock = threading.Lock()
        self._waiting: deque[tuple[NDArray[np.uint8], Any]] = deque()
        self._running = 0

    @property
    def waiting(self) -> int:
        """Images that wait for the engine."""
        return len(self._waiting)

    def add(self, pixels: NDArray[np.uint8], item: Any) -> None:
        """Take an image, uint8 `[H, W, 3]`. If the engine is free, run it on all that wait before returning."""
        with self._lock:
            self._waiting.append((pixels, item))
            if self._running == self._executions:
                return
            self._running += 1
        while gathered := self._gather():
            execution = self._run(gathered)
            try:
                self._done(execution)
            except Exception:
                # Whatever fails there, such as writing a metric to a full disk, the engine must go on.
                log.exception("Could not report a run of the engine")

    def _gather(self) -> list[tuple[NDArray[np.uint8], Any]]:
        with self._lock:
            gathered = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            if not gathered:
                self._running -= 1
            return gathered

    def _run(self, gathered: list[tuple[NDArray[np.uint8], Any]]) -> Execution:
        images, items = zip(*gathered, strict=True)
        started = perf_counter()
        scores, failure = None, None
        try:
            scores = self._engine.run(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
        except Exception as error:  # noqa: BLE001  # each request reports it
            failure = error
        return Execution(items=items, scores=scores, error=failure, started=started, elapsed_s=perf_counter() - started)
