"""Progress without a terminal: a log line now and then, with what was done before."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from classifier import progress
from classifier.progress import show_progress

if TYPE_CHECKING:
    import pytest


def test_lines_count_what_every_thread_did(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Units from all threads add up to those of an earlier run; a log for programs gets the numbers."""
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0)
    caplog.set_level(logging.INFO)
    with show_progress(100, done=40, title="fp32") as advance, ThreadPoolExecutor(4) as pool:
        list(pool.map(advance, [10] * 6))
    assert len(caplog.records) == 6
    assert caplog.messages[0].startswith("fp32: 50 of 100 images, ")
    last: Any = caplog.records[-1]
    assert (last.numbers["images"], last.numbers["total"], last.numbers["left_s"]) == (100, 100, 0)


def test_bytes_are_shown_in_units(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0)
    caplog.set_level(logging.INFO)
    with show_progress(45_000_000, unit="bytes") as advance:
        advance(1_500_000)
    assert caplog.messages[0].startswith("1.5 MB of 45.0 MB, ")


def test_short_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with show_progress(2) as advance:
        advance(2)
    assert caplog.messages == []
