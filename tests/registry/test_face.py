"""The face of the package: its names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import registry
from tests.conftest import ROOT


def test_every_name_of_the_face_is_there() -> None:
    """Also the names that are imported on first use."""
    for name in registry.__all__:
        assert getattr(registry, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'pushy'"):
        registry.pushy  # noqa: B018


def test_importing_the_registry_imports_no_network() -> None:
    """HTTP and TLS are imported with the first push or pull."""
    script = (
        "import sys, registry\n"
        "loaded = lambda: [name for name in ('urllib3', 'ssl', 'registry.remote') if name in sys.modules]\n"
        "print(loaded()); registry.pull; print(loaded())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['urllib3', 'ssl', 'registry.remote']"]
