"""A new version without a lost request: two replicas behind nginx, one restarted or killed after the other."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest

from classifier.artifact import CARD
from registry import LocalRegistry
from tests.load import CLIENTS, load
from tests.registry.servers import free_port
from tests.service.nginx import needs_nginx, nginx
from tests.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving import Server


class Replica(ThreadingHTTPServer):
    """Answers every request with one status, and counts them. A real replica is full only for moments."""

    def __init__(self, status: int) -> None:
        self.asked = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.asked += 1
                handler.send_response(status)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@needs_nginx
def test_a_full_replica_stays_in_the_rotation(tmp_path: Path) -> None:
    """A healthy replica that has no room for a moment is asked again at once; meanwhile the other one answers."""
    with Replica(503) as full, Replica(200) as free:
        with nginx(tmp_path / "nginx", full.server_port, free.server_port) as url, httpx.Client() as client:
            statuses = {client.get(f"{url}/readyz").status_code for _ in range(40)}
        for replica in (full, free):
            replica.shutdown()
    assert statuses == {200}
    assert full.asked >= 15


@needs_nginx
@pytest.mark.timeout(600)
def test_rolling_restart_and_a_killed_replica(tandem_home: Path, image: bytes, tmp_path: Path) -> None:
    """From `digits:1` to `digits:2` under load, then `kill -9` of a replica: every request is answered with 200.

    As docs/deploy/rolling-update.md describes it, with the configuration in deploy/nginx.
    """
    registry = LocalRegistry(tandem_home / "registry")
    old = registry.resolve("digits:1")
    registry.add("digits", {file: old.read(file) for file in old.files} | {CARD: b"# again\n"})
    new = registry.resolve("digits:2")
    ports = free_port(), free_port()

    def start(stack: ExitStack, number: int, reference: str) -> Server:
        folder = tmp_path / f"{reference.replace(':', '-')}-{number}"
        replica = serving(
            folder, home=tandem_home, port=ports[number], TANDEM_MODEL=reference, TANDEM_TRUSTED_PROXIES="127.0.0.1",
            TANDEM_DRAIN="1",
        )  # fmt: skip
        return stack.enter_context(replica)

    with ExitStack() as stack:
        replicas = [stack.enter_context(ExitStack()) for _ in ports]
        servers = [start(replica, number, "digits:1") for number, replica in enumerate(replicas)]
        url = stack.enter_context(nginx(tmp_path / "nginx", *ports))
        with load(url, [image]) as seen:
            seen.wait_for(20)
            for number, replica in enumerate(replicas):
                servers[number].process.send_signal(signal.SIGTERM)
                assert servers[number].process.wait(timeout=60) == 0
                replica.close()
                servers[number] = start(replica, number, "digits:2")
                seen.wait_for(20)
            restarted = len(seen.digests)
            seen.wait_for(20)
            os.killpg(servers[0].process.pid, signal.SIGKILL)
            seen.wait_for(100)
        assert seen.failures == []
        assert {*seen.digests} == {old.digest, new.digest}
        assert {*seen.digests[restarted + CLIENTS :]} == {new.digest}
