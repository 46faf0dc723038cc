"""The instruments of `benchmarks/service.py`."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from benchmarks.serving.load import Clients, Job, Outcome
from benchmarks.serving.photographs import make_images
from benchmarks.serving.processes import cpu_seconds, pss_bytes, tree_of
from tests.registry.servers import serve

if TYPE_CHECKING:
    from pathlib import Path

BURN = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_the_time_of_a_child_that_has_ended_counts() -> None:
    """A server's CPU time includes that of the processes that it started, also after they have ended."""
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tree_of(process.pid) == [process.pid]
        assert 0.5 <= cpu_seconds(process.pid) < 2
        process.communicate(b"\n")


def test_memory_is_that_of_the_whole_tree() -> None:
    """The memory of a server includes that of the processes that it started."""
    hold = "held = bytearray(50_000_000); held[::4096] = b'x' * len(held[::4096]); print(1, flush=True); input()"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(tree_of(process.pid)) == 2
        assert pss_bytes(process.pid) > 50_000_000
        process.communicate(b"\n")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []
    peers: ClassVar[set[str]] = set()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.peers.add(self.client_address[0])
        turn = len(self.bodies) % 4
        if turn == 3:
            self.close_connection = True
            return
        self.send_response(503 if turn == 2 else 200)
        self.send_header("Content-Length", "2")
        if turn == 1:
            self.send_header("X-Cache", "hit")
        if turn == 2:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")


async def _run(job: Job) -> Outcome:
    clients = Clients(job)
    await clients.prepare()
    return await clients.run()


def test_the_clients_count_what_comes_back(tmp_path: Path) -> None:
    """Answers count by status, a request without one as reset, and a connection that was closed is opened again."""
    images = make_images(tmp_path, count=4, width=32, height=32)
    files = [str(path) for path in sorted(images.folder.iterdir())]
    handler = type("Handler", (_Handler,), {"bodies": [], "peers": set()})
    with serve(handler) as host:
        port = int(host.rpartition(":")[2])
        job = Job(port=port, path="/", field="image", images=files, requests=40, warm_up=0)
        outcome = asyncio.run(_run(job))
    assert outcome.statuses == {"200": 20, "503": 10, "reset": 10}
    assert len(outcome.accepted_ms) == 20
    assert outcome.cached == 10
    sent = Counter(hashlib.sha256(body).hexdigest() for body in handler.bodies)  # type: ignore[attr-defined]
    assert set(sent.values()) == {10}
    assert len(sent) == images.count


def test_each_client_may_have_its_own_address_and_a_rate(tmp_path: Path) -> None:
    """With a rate, requests go out evenly for the given time, here from ten addresses."""
    images = make_images(tmp_path, count=1, width=32, height=32)
    handler = type("Handler", (_Handler,), {"bodies": [], "peers": set()})
    with serve(handler) as host:
        job = Job(
            port=int(host.rpartition(":")[2]),
            path="/",
            field="image",
            images=[str(path) for path in images.folder.iterdir()],
            connections=10,
            rate=50,
            seconds=1,
            warm_up=0,
            own_addresses=True,
        )
        outcome = asyncio.run(_run(job))
    assert 40 <= sum(outcome.statuses.values()) + outcome.unsent <= 60
    assert len(handler.peers) == 10  # type: ignore[attr-defined]
    assert outcome.seconds > 0.9


def test_the_images_are_all_different_and_the_same_each_time(tmp_path: Path) -> None:
    """The images of a run can be made again, which their digest shows, and no two of them are equal."""
    one, other = (make_images(tmp_path / name, count=20, width=64, height=48) for name in ("one", "other"))
    assert one.digest == other.digest
    assert len({path.read_bytes() for path in one.folder.iterdir()}) == 20
