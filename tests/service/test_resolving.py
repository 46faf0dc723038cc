"""Which model is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psutil

from classifier.artifact import CARD
from registry import LocalRegistry
from tests.serving import serving

if TYPE_CHECKING:
    from pathlib import Path


def test_alias_that_moves_changes_no_running_service(tandem_home: Path, image: bytes, tmp_path: Path) -> None:
    """A service keeps the model that it started with, even in a restarted worker."""
    registry = LocalRegistry(tandem_home / "registry")
    first = registry.resolve("digits:1")
    registry.add("digits", {file: first.read(file) for file in first.files} | {CARD: b"# again\n"})
    registry.tag("digits:1", "production")
    with serving(tmp_path / "serve", home=tandem_home, TANDEM_MODEL="") as server:
        assert server.model["model"] == first.identity
        registry.tag("digits:2", "production")
        for worker in psutil.Process(server.process.pid).children():
            worker.kill()
            worker.wait()
        server.wait_until_ready()
        answer = httpx.post(f"{server.url}/classify", content=image, timeout=60)
        assert answer.json()["model"] == first.identity
