"""The images of deploy/training.

torch comes from pip's find-links if that is set, and otherwise as for a user: its CPU build from PyTorch's own index.
"""

from __future__ import annotations

import functools
import http.server
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.docker import build_image

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL_PORT = 38917
"""For the wheels: Docker builds torch's layer again if their address changes."""


def build_training_image(target: str) -> str:
    """Return the image of that target, built from this tree."""
    with torch_options() as options:
        return build_image("deploy/training/Dockerfile", f"tandem-{target}:test", "--target", target, *options)


@contextmanager
def torch_options() -> Iterator[tuple[str, ...]]:
    """Yield the options of a build that say where torch comes from."""
    folder = next(iter(os.environ.get("PIP_FIND_LINKS", "").split()), "")
    if not any(Path(folder or "/nowhere").glob("torch-*.whl")):
        yield ()
        return
    handler = functools.partial(QuietHandler, directory=folder)
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", USUAL_PORT), handler)
    except OSError:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        links = f"UV_FIND_LINKS=http://127.0.0.1:{server.server_port}/"
        yield ("--network", "host", "--build-arg", "UV_TORCH_BACKEND=", "--build-arg", links)
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
