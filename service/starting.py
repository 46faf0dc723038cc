"""How the start of `bentoml serve` ends: with a worker that has opened the model, or with one sentence.

BentoML restarts a worker that fails to start, forever, with a traceback each time, and says that it listens before a
worker can answer. Here a worker tells the parent process how its start ended, through a file in a folder of theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from classifier.errors import TandemError
from classifier.hardware import memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

FOLDER = "TANDEM_START_FOLDER"
"""The variable that tells workers the folder. Without it nobody waits for their report."""
_OPENED = "opened"
"""A file with the bytes of memory that the worker has taken so far."""
_FAILED = "failed"
"""A file with the sentence that says why the model can't be served."""
_LOOK_EVERY_S = 0.05


@contextmanager
def reporting() -> Iterator[None]:
    """Report whether the block, which opens what a worker serves, succeeded; a `TandemError` ends the worker."""
    folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None
    try:
        yield
    except TandemError as error:
        _end(folder, str(error))
    _give_memory_back()
    if folder is not None:
        _write(folder / _OPENED, str(_peak_memory()))


def _end(folder: Path | None, why: str) -> NoReturn:
    if folder is None or (folder / _OPENED).exists():
        log.error("%s", why)
    else:
        _write(folder / _FAILED, why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # an exception would meet the event loop, which prints a traceback


def _write(file: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(file)


class FirstStart:
    """Watches in the parent process until a worker has opened the model, or has failed.

    Attributes:
        is_over: whether a worker has opened the model. From then on one that ends is replaced.
        failure: the sentence that `bentoml serve` ends with.
    """

    def __init__(self, folder: Path, model: str, workers: int) -> None:
        self.is_over = False
        self.failure: str | None = None
        self._folder = folder
        self._model = model
        self._workers = workers

    def follow(self, arbiter: Any, announce: Callable[[], object]) -> None:
        """Call `announce` when the service answers, or stop `arbiter`. Called on its event loop."""
        if self.failure is not None or arbiter._stopping:
            return
        if (self._folder / _OPENED).exists():
            self.is_over = True
            self.failure = self._too_large()
        elif (self._folder / _FAILED).exists():
            self.failure = (self._folder / _FAILED).read_text()
        else:
            arbiter.loop.call_later(_LOOK_EVERY_S, self.follow, arbiter, announce)
            return
        if self.failure is None:
            announce()
            _give_memory_back()
        else:
            arbiter.stop()

    def worker_ended(self, arbiter: Any, exit_code: int | None) -> None:
        """Stop `arbiter` because a worker has ended before the model was open."""
        if (self._folder / _OPENED).exists():
            return  # `follow` is about to see it
        with contextlib.suppress(FileNotFoundError):
            self.failure = (self._folder / _FAILED).read_text()
        if self.failure is None and exit_code == -signal.SIGKILL:
            self.failure = self._no_room("opening it was killed, which usually means out of memory")
        elif self.failure is None:
            self.failure = f"opening {self._model} ended with exit code {exit_code}; the lines above say why"
        arbiter.stop()

    def _too_large(self) -> str | None:
        """Return a sentence if this process and all of its workers need more memory than this container has."""
        limit = memory_limit()
        needed = _peak_memory() + self._workers * int((self._folder / _OPENED).read_text())
        if limit is None or needed <= limit:
            return None
        return self._no_room(f"the service needs about {needed // 10**6:,} MB before its first image")

    def _no_room(self, why: str) -> str:
        limit = memory_limit()
        where = "this machine's memory" if limit is None else f"this container's memory of {limit // 10**6:,} MB"
        return f"{self._model} does not fit into {where}: {why}; give it more"


def _give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps what the start has taken, in the parent process 12 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from musl and macOS
    if trim is not None:
        trim(0)


def _peak_memory() -> int:
    """Return the bytes of memory that this process has taken at most; 0 on a system that does not say."""
    # Not ru_maxrss: that counts the program that started this one, too.
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
