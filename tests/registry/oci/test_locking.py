"""Waiting for a lock: up to a limit, which starts again with each sign of progress."""

from __future__ import annotations

import fcntl
import itertools
import threading
from typing import TYPE_CHECKING

import pytest

from classifier.errors import RegistryUnwritable
from registry.oci.locking import lock

if TYPE_CHECKING:
    from pathlib import Path

WORDS = {"waiting": "waiting for it", "too_long": "held too long: end it"}


def test_a_holder_without_progress_is_waited_for_up_to_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says once that something waits; then it is an error."""
    caplog.set_level("INFO")
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as waiting:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RegistryUnwritable, match="held too long"):
            lock(waiting.fileno(), 0.2, **WORDS)
    assert [record.getMessage() for record in caplog.records] == ["waiting for it"]


def test_a_holder_that_gets_on_is_waited_for(tmp_path: Path) -> None:
    """Longer than the limit, as long as the number changes."""
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as waiting:
        fcntl.flock(held, fcntl.LOCK_EX)
        timer = threading.Timer(0.5, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        timer.start()
        numbers = itertools.count()
        lock(waiting.fileno(), 0.2, **WORDS, progress=lambda: next(numbers))
        timer.join()
