"""The served model is opened as the environment says."""

from __future__ import annotations

import os
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


def test_run_as_a_module_it_prints_one_sentence(digits_home: Path) -> None:
    """`bentoml serve` runs the module to test a model. It must not import BentoML, which takes a second."""
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


def test_the_cache_s_variables_are_checked_before_the_start(digits_home: Path) -> None:
    """A wrong TANDEM_CACHE ends the test with one sentence, before any worker starts."""
    command = [sys.executable, "-m", "service.opening", str(digits_home / "registry"), "digits"]
    environment = {**os.environ, "TANDEM_CACHE": "plenty"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("TANDEM_CACHE is 'plenty', which is not a number of bytes")
