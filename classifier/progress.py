"""Progress: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Advance = Callable[[int], None]

log = logging.getLogger(__name__)

LOG_EVERY_S = 10


@contextmanager
def show_progress(total: int, *, done: int) -> Iterator[Advance]:
    """Yield a function that says how many more images are done, of `total` of which `done` were before."""
    with (_bar if sys.stderr.isatty() else _log_lines)(total, done) as advance:
        yield advance


@contextmanager
def _bar(total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console  # noqa: PLC0415 # not needed without a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    started = time.monotonic()
    new = 0
    columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, completed=done, rate="")

        def advance(images: int) -> None:
            nonlocal new
            new += images
            progress.update(task, advance=images, rate=f"{new / (time.monotonic() - started):,.0f} images/s")

        yield advance


@contextmanager
def _log_lines(total: int, done: int) -> Iterator[Advance]:
    started = said = time.monotonic()
    new = 0

    def advance(images: int) -> None:
        nonlocal new, said
        new += images
        now = time.monotonic()
        if now - said >= LOG_EVERY_S:
            said = now
            rate = new / (now - started)
            left_s = (total - done - new) / rate
            log.info(
                "%s of %s images, %s images/s, %s s left",
                *(f"{n:,.0f}" for n in (done + new, total, rate, left_s)),
                extra={
                    "numbers": {
                        "images": done + new, "total": total, "images_per_s": round(rate, 1), "left_s": round(left_s)
                    }
                },
            )  # fmt: skip

    yield advance
