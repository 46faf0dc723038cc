"""The real `docker`: build images, and run containers as production should."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWNER = 4321
"""A user id that neither this machine nor the images know. It owns the outputs."""
USED = ("--user", f"{OWNER}:{OWNER}")

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
    return build_image("Dockerfile.batch", tag, *args)


def build_image(dockerfile: str, tag: str, *args: str) -> str:
    """Build an image of the clone; $TANDEM_BASE_IMAGE, where it is set, names another base."""
    base = ("--build-arg", "TANDEM_BASE_IMAGE")
    docker("build", "--file", ROOT / dockerfile, "--tag", tag, *base, *args, ROOT, timeout=1200)
    return tag


def get(url: str) -> int | None:
    """Return the HTTP status; None if nothing answers."""
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


@contextmanager
def running(
    image: str,
    *options: str | Path,
    arguments: tuple[str, ...] = (),
    url: str = "",
    name: str = "",
    user: str = f"{OWNER}:{OWNER}",
) -> Iterator[str]:
    """Yield the URL of a ready service in a container.

    Without `url`, Docker chooses the port; without `user`, the image's own user runs it.
    """
    name = name or f"tandem-{uuid.uuid4().hex[:8]}"
    publish = () if url else ("--publish", "127.0.0.1::3000")
    used = ("--user", user) if user else ()
    # Without the --rm of HARDENED: a container that failed keeps its log until `docker rm`.
    docker("run", *HARDENED[1:], *used, *publish, *options, "--detach", "--name", name, image, *arguments)
    try:
        at = url or f"http://{docker('port', name, '3000').stdout.split()[-1]}"
        try:
            wait_until(lambda: get(f"{at}/readyz") == 200, "the service", within_s=90)
        except TimeoutError:
            pytest.fail(docker("logs", name).stderr)
        yield at
    finally:
        docker("rm", "--force", name, check=False)
