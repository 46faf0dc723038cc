"""A real redis-server on loopback, that tests may stop, fill, lock and freeze."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import redis

from tests.registry.servers import free_port

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from pathlib import Path

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server: apt-get install redis-server"
)


@dataclass(kw_only=True)
class RedisServer:
    """A redis-server that keeps everything in memory."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """A client of the tests' own."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        """Start it, and wait until it answers, if only that a password is missing."""
        listening = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", *listening, "--save", "", "--appendonly", "no", *self.options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError), self.client as client:
                with contextlib.suppress(redis.ResponseError, redis.AuthenticationError):
                    client.ping()
                return
            time.sleep(0.05)
        pytest.fail(f"redis-server does not answer:\n{(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Kill it, frozen or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def run_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Yield a running redis-server."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder=folder, port=free_port(), options=options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
