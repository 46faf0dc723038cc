"""How the start of `bentoml serve` ends: with a worker that answers, or with one sentence.

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
from classifier.files import replace_file
from classifier.hardware import memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

FOLDER = "TANDEM_START_FOLDER"
"""The variable that tells workers the folder. Without it nobody waits for their report."""
_READY = "ready"
"""A file with the bytes of memory that the worker has taken so far."""
_FAILED = "failed"
"""A file with the sentence that says why the model can't be served."""
_LOOK_EVERY_S = 0.05


@contextmanager
def reporting_failure() -> Iterator[None]:
    """Tell the parent process if the block, which opens what a worker serves, fails; it ends the worker."""
    try:
        yield
    except TandemError as error:
        _end(str(error))


def report_ready() -> None:
    """Tell the parent process that this worker answers."""
    _give_memory_back()
    folder = _folder()
    if folder is not None and not (folder / _READY).exists():
        replace_file(folder / _READY, str(_peak_memory()).encode())


def _folder() -> Path | None:
    return Path(os.environ[FOLDER]) if FOLDER in os.environ else None


def _end(why: str) -> NoReturn:
    folder = _folder()
    if folder is None or (folder / _READY).exists():
        log.error("%s", why)
    else:
        replace_file(folder / _FAILED, why.encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # an exception would meet the event loop, which prints a traceback


class FirstStart:
    """Watches in the parent process until a worker answers, or has failed.

    Attributes:
        is_stopped: whether the service has been told to end; the deaths of its workers are no failure then.
        failure: the sentence that `bentoml serve` ends with.
    """

    def __init__(self, folder: Path, model: str, workers: int) -> None:
        self.is_stopped = False
        self.failure: str | None = None
        self._folder = folder
        self._model = model
        self._workers = workers

    @property
    def is_over(self) -> bool:
        """Whether a worker answers, or has. From then on one that ends is replaced."""
        return (self._folder / _READY).exists()

    def follow(self, arbiter: Any, announce: Callable[[], object]) -> None:
        """Call `announce` when a worker answers, or stop `arbiter`. Called on its event loop."""
        if self.failure is not None or arbiter._stopping:
            return
        failed = self._read(_FAILED)
        if self.is_over:
            self.failure = self._too_large()
            if failed is not None:
                log.error("%s", failed)  # another worker, a moment before
        elif failed is not None:
            self.failure = failed
        else:
            arbiter.loop.call_later(_LOOK_EVERY_S, self.follow, arbiter, announce)
            return
        if self.failure is None:
            announce()
            _give_memory_back()
        else:
            arbiter.stop()

    def is_ended_by(self, arbiter: Any, exit_code: int | None) -> bool:
        """Stop `arbiter` and return true if a worker ended before any answered."""
        if self.is_over:
            return False
        self.failure = self._read(_FAILED)
        if self.failure is None and exit_code == -signal.SIGKILL:
            self.failure = self._no_room("opening it was killed, which usually means out of memory")
        elif self.failure is None:
            self.failure = f"opening {self._model} ended with exit code {exit_code}; the lines above say why"
        arbiter.stop()
        return True

    def _read(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text()
        except FileNotFoundError:
            return None

    def _too_large(self) -> str | None:
        """Return a sentence if this process and all of its workers need more memory than this container has."""
        limit = memory_limit()
        needed = _peak_memory() + self._workers * int(self._read(_READY) or 0)
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
