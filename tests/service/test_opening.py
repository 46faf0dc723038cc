"""How the served model is opened, as the environment asks for it."""

from __future__ import annotations

import subprocess
import sys
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
        ("TANDEM_THREADS", "many", "no number of threads"),
        ("TANDEM_THREADS", "0", "no number of threads"),
    ],
)
def test_what_can_not_be_had_is_refused(
    digits_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fact: str
) -> None:
    """Every variable is heeded, and none that can't be is passed over."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineUnavailable, match=fact):
        open_served(LocalRegistry(digits_home / "registry"), "digits")


def test_empty_variables_are_as_good_as_none(digits_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and Kubernetes manifests pass what isn't set as an empty string."""
    for name in ("ENGINE", "DEVICE", "PRECISION", "THREADS"):
        monkeypatch.setenv(f"TANDEM_{name}", "")
    assert open_served(LocalRegistry(digits_home / "registry"), "digits").name == "digits"


def test_as_a_module_it_leaves_a_sentence(digits_home: Path) -> None:
    """What `bentoml serve` starts to try a model, without the second that importing BentoML takes."""
    script = f"""
import runpy, sys
sys.argv = ["opening", {str(digits_home / "registry")!r}, "digits"]
runpy.run_module("service.opening", run_name="__main__")
sys.exit(any(name in sys.modules for name in ("bentoml", "_bentoml_sdk", "starlette")))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
    missing = [sys.executable, "-m", "service.opening", str(digits_home / "registry"), "letters"]
    ended = subprocess.run(missing, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
