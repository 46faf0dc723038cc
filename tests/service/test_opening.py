"""The served model is opened as the environment says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from classifier.errors import EngineUnavailable
from registry import LocalRegistry
from service.opening import open_served

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("variable", "value", "fact"),
    [
        ("TANDEM_ENGINE", "abacus", "no engine 'abacus'"),
        ("TANDEM_DEVICE", "abacus", "no device 'abacus'"),
        ("TANDEM_PRECISION", "fp7", "precision 'fp7'"),
        ("TANDEM_THREADS", "many", "not a number of threads"),
        ("TANDEM_THREADS", "0", "not a number of threads"),
    ],
)
def test_invalid_settings_are_refused(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fact: str
) -> None:
    """Every variable takes effect, and an invalid value is never ignored."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineUnavailable, match=fact):
        open_served(LocalRegistry(digits_home / "registry"), "digits")


def test_empty_variables_count_as_unset(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and Kubernetes manifests pass unset variables as empty strings."""
    for name in ("ENGINE", "DEVICE", "PRECISION", "THREADS"):
        monkeypatch.setenv(f"TANDEM_{name}", "")
    assert open_served(LocalRegistry(digits_home / "registry"), "digits").name == "digits"
