"""Progress of a transfer: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.filesize import decimal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Advance = Callable[[int], None]

_LOG_EVERY_S = 10.0
_log = logging.getLogger(__name__)


@contextmanager
def show_transfer(title: str, total_bytes: int) -> Iterator[Advance]:
    """Yield a function that says how many more bytes are done; any thread may call it."""
    with (_bar if sys.stderr.isatty() else _log_lines)(title, total_bytes) as advance:
        yield advance


@contextmanager
def _bar(title: str, total_bytes: int) -> Iterator[Advance]:
    from rich.console import Console  # noqa: PLC0415 # not needed without a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total_bytes)
        yield lambda size: progress.advance(task, size)


@contextmanager
def _log_lines(title: str, total_bytes: int) -> Iterator[Advance]:
    lock = threading.Lock()
    done, said = 0, time.monotonic()
    _log.info("%s, %s", title, decimal(total_bytes))

    def advance(size: int) -> None:
        nonlocal done, said
        with lock:
            done += size
            if (now := time.monotonic()) - said >= _LOG_EVERY_S:
                said = now
                _log.info("%s, %s of %s", title, decimal(done), decimal(total_bytes))

    yield advance
