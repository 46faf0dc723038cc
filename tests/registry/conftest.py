"""Fixtures of the registry's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """Return an empty registry, which is also the default of the commands that the test runs."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return LocalRegistry.default()
