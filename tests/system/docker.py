"""The real `docker`, and what the tests of the images have in common."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWNER = 4321
"""A user that neither this machine nor the images know: the one who owns the output."""

HARDENED = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def docker(*args: str | Path, check: bool = True, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Return the ended `docker …`; with `check`, a failure shows what it printed."""
    done = subprocess.run(
        ["docker", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=False,
    )
    if check and done.returncode != 0:
        pytest.fail(f"docker {' '.join(map(str, args))} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def build_batch_image(tag: str, *args: str) -> str:
    docker("build", "--file", ROOT / "Dockerfile.batch", "--tag", tag, *args, ROOT, timeout=1200)
    return tag


def get(url: str) -> int | None:
    """Return the HTTP status, None where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            status: int = answer.status
            return status
    except OSError:
        return None


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {within_s:.0f} s")
        time.sleep(0.1)
