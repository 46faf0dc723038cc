"""What the parent process makes of its workers' reports. tests/service/test_preflight.py has real starts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.starting import FOLDER, FirstStart
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FAILS = """
from classifier.errors import EngineUnavailable
from service.starting import reporting_failure
with reporting_failure():
    raise EngineUnavailable("no engine")
"""
ANSWERS = """
from service.starting import report_ready
report_ready()
"""


@dataclass
class Parent:
    """Stands in for circus' arbiter, whose stop ends the process that a test runs in."""

    loop: asyncio.AbstractEventLoop
    _stopping: bool = False
    announced: list[str] = field(default_factory=list)

    def stop(self) -> None:
        self._stopping = True


async def outcome(first_start: FirstStart, *, killed: bool = False) -> Parent:
    """Follow a start for a moment; with `killed`, a worker has been before."""
    parent = Parent(asyncio.get_running_loop())
    if killed:
        assert not first_start.is_ended_by(parent, -signal.SIGKILL)
    first_start.follow(parent, lambda: parent.announced.append("listening"))
    await asyncio.sleep(0.2)
    return parent


def report(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a worker's part in a process."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, FOLDER: str(folder)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_worker_answers(tmp_path: Path) -> None:
    """The service listens; nothing is announced before."""
    first_start = FirstStart(tmp_path, "digits", workers=1)
    assert not asyncio.run(outcome(first_start)).announced
    assert report(tmp_path, ANSWERS).returncode == 0
    parent = asyncio.run(outcome(first_start))
    assert parent.announced == ["listening"]
    assert first_start.is_over
    assert first_start.failure is None


def test_a_worker_has_failed(tmp_path: Path) -> None:
    """Its sentence is the parent's; the worker itself prints nothing."""
    done = report(tmp_path, FAILS)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    first_start = FirstStart(tmp_path, "digits", workers=1)
    parent = asyncio.run(outcome(first_start))
    assert parent._stopping
    assert not parent.announced
    assert first_start.failure == "no engine"


def test_one_fails_after_another_answers(tmp_path: Path) -> None:
    """The service goes on, and the log has the sentence."""
    report(tmp_path, ANSWERS)
    done = report(tmp_path, FAILS)
    assert done.returncode == 1
    assert "no engine" in done.stderr
    assert asyncio.run(outcome(FirstStart(tmp_path, "digits", workers=2))).announced == ["listening"]


def test_one_dies_right_after_it_has_answered(tmp_path: Path) -> None:
    """It is replaced like any other, even if its death is noticed before its report."""
    report(tmp_path, ANSWERS)
    parent = asyncio.run(outcome(FirstStart(tmp_path, "digits", workers=2), killed=True))
    assert parent.announced == ["listening"]
    assert not parent._stopping


def test_all_workers_need_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker may have room where several have not."""
    report(tmp_path, ANSWERS)
    monkeypatch.setattr("service.starting.memory_limit", lambda: 10**9)
    first_start = FirstStart(tmp_path, "digits", workers=1000)
    assert asyncio.run(outcome(first_start))._stopping
    assert first_start.failure is not None
    assert first_start.failure.startswith("digits does not fit into this container's memory of 1,000 MB: ")
