"""Fixtures of the tests of the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set TANDEM_HOME to the home of the trained model, and return it."""
    monkeypatch.setenv("TANDEM_HOME", str(digits_home))
    return digits_home
