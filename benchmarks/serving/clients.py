"""Send requests to a running server, and measure the server meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.serving.load import Job, Outcome
from benchmarks.serving.processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.serving.servers import Server

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One round of one server.

    Attributes:
        cpu_ms: per request, of the server's whole process tree.
        per_s: answers a second.
    """

    cpu_ms: float
    per_s: float
    median_ms: float
    client_cpu_ms: float
    cached: int


def send(server: Server, images: list[Path], *, meanwhile: Callable[[], None] | None = None, **job: Any) -> Outcome:
    """Return the outcome of a job; see `Job`. Its CPU time is `server.spent_s` afterwards."""
    description = Job(
        port=server.port,
        path=server.contender.path,
        field=server.contender.form_field,
        images=[str(image) for image in images],
        **job,
    )
    command = (sys.executable, "-m", "benchmarks.serving.load")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(description)) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            sys.exit(f"the clients of {server.contender.name} did not get ready; its log is {server.log}")
        before_s = cpu_seconds(server.process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        with _again_and_again(meanwhile):
            answer = process.stdout.readline()
        server.spent_s = cpu_seconds(server.process.pid) - before_s
    if process.returncode != 0:
        sys.exit(f"the clients of {server.contender.name} failed; its log is {server.log}")
    return Outcome(**json.loads(answer))


@contextmanager
def _again_and_again(call: Callable[[], None] | None) -> Iterator[None]:
    """Call `call` in a thread, again and again, until the block ends."""
    is_done = threading.Event()

    def run() -> None:
        while call is not None and not is_done.is_set():
            call()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def measure(server: Server, images: list[Path], *, clients: int, requests: int) -> Measured:
    """Return one round; every request has to succeed."""
    outcome = send(server, images, connections=clients, requests=requests)
    if set(outcome.statuses) != {"200"}:
        sys.exit(f"{server.contender.name} answered {outcome.statuses}; its log is {server.log}")
    done = outcome.statuses["200"]
    return Measured(
        cpu_ms=server.spent_s / done * 1000,
        per_s=done / outcome.seconds,
        median_ms=sorted(outcome.accepted_ms)[done // 2],
        client_cpu_ms=outcome.client_cpu_s / done * 1000,
        cached=outcome.cached,
    )
