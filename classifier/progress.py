"""Progress of long work: a bar on a terminal, else a log line every `LOG_EVERY_S`."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Advance = Callable[[int], None]

Unit = Literal["images", "bytes"]

LOG_EVERY_S = 10

log = logging.getLogger(__name__)


@contextmanager
def show_progress(total: int, *, done: int = 0, title: str = "", unit: Unit = "images") -> Iterator[Advance]:
    """Yield a function that reports progress: call it, from any thread, with the number of units just done.

    Args:
        total: number of units in all.
        done: number of units done by an earlier run; they don't count towards the rate.
        title: shown before the numbers.
        unit: what is counted.
    """
    with _bar(total, done, title, unit) if sys.stderr.isatty() else _log_lines(total, title, unit) as update:
        lock = threading.Lock()
        started = time.monotonic()
        new = 0

        def advance(units: int) -> None:
            nonlocal new
            with lock:
                new += units
                update(done + new, new / max(time.monotonic() - started, 1e-9))

        yield advance


@contextmanager
def _bar(total: int, done: int, title: str, unit: Unit) -> Iterator[Callable[[int, float], None]]:
    # Imported here because only a terminal needs it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        *([TextColumn("{task.description}")] if title else []),
        *(BarColumn(None), TextColumn("{task.fields[count]}"), TextColumn("{task.fields[rate]}")),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, count="", rate="")

        def update(now: int, rate: float) -> None:
            count = f"{_amount(now, unit)}/{_amount(total, unit)}"
            progress.update(task, completed=now, count=count, rate=f"{_amount(rate, unit)}{_suffix(unit)}/s")

        yield update


@contextmanager
def _log_lines(total: int, title: str, unit: Unit) -> Iterator[Callable[[int, float], None]]:
    logged = time.monotonic()

    def update(now: int, rate: float) -> None:
        nonlocal logged
        if time.monotonic() - logged < LOG_EVERY_S:
            return
        logged = time.monotonic()
        left_s = round((total - now) / rate) if rate else 0
        log.info(
            "%s%s of %s%s, %s%s/s, %s s left",
            *(f"{title}: " if title else "", _amount(now, unit), _amount(total, unit), _suffix(unit)),
            *(_amount(rate, unit), _suffix(unit), f"{left_s:,}"),
            extra={"numbers": {unit: now, "total": total, f"{unit}_per_s": round(rate, 1), "left_s": left_s}},
        )

    yield update


def _amount(count: float, unit: Unit) -> str:
    if unit == "images":
        return f"{count:,.0f}"
    from rich.filesize import decimal  # noqa: PLC0415

    return decimal(round(count))


def _suffix(unit: Unit) -> str:
    return " images" if unit == "images" else ""
