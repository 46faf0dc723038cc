"""The clients, in a process of their own: `python -m benchmarks.serving.load`, driven by `benchmarks.serving.clients`.

Reads a job as one line of JSON, prepares it, prints `ready`, waits for a line, works, and prints the outcome as JSON.
An HTTP client of the usual kind costs as much CPU time as the servers, so this one does only what it needs: it writes
requests that were put together before, and finds status, length and `Connection` in the answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

_BOUNDARY = "tandem-benchmark"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_CACHED = re.compile(rb"\r\n[^\r:]*cache[^\r:]*: *hit", re.IGNORECASE)
_PATIENCE_S = 60
"""How long an answer may take before it counts as missing."""
_IDLE_S = 4
"""A connection that was idle for longer is opened anew, as HTTP clients do: servers close theirs after 5 s or so, and a
request that crosses the end of its connection would count as reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The requests to send.

    Attributes:
        field: the form's field that holds the image.
        images: files, sent in turn.
        connections: kept alive, each with one request at a time.
        requests: how many in all, as fast as answers come; None to send `rate` requests a second for `seconds`.
        warm_up: requests on each connection before the work begins.
        own_addresses: give each connection an address of its own, all of them loopback: a client by itself.
    """

    port: int
    path: str
    field: str
    images: list[str]
    connections: int = 1
    requests: int | None = None
    rate: float = 0
    seconds: float = 0
    warm_up: int = 1
    own_addresses: bool = False


@dataclass(kw_only=True)
class Outcome:
    """What came back.

    Attributes:
        statuses: answers by HTTP status; `refused`, `reset` and `missing` for requests without.
        accepted_ms: time from a request's first byte to its answer's last, of each answer 200.
        unsent: requests whose turn came while their connection still waited; only with a `rate`.
        cached: answers that a header calls a cache hit.
        client_cpu_s: what this process used.
    """

    seconds: float = 0
    statuses: dict[str, int] = field(default_factory=dict)
    accepted_ms: list[float] = field(default_factory=list)
    unsent: int = 0
    cached: int = 0
    client_cpu_s: float = 0


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[str] | None = None
        self.is_cached = False
        self.idle_since = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self._received = cast("asyncio.Transport", transport), b""  # uvloop's is not a subclass
        self.idle_since = time.perf_counter()

    def send(self, request: bytes) -> asyncio.Future[str]:
        """Return the coming status."""
        assert self.transport is not None
        self.answered, self.is_cached = asyncio.get_running_loop().create_future(), False
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[: end + 2]
        length = _LENGTH.search(head)
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return
        self._received = b""
        self.is_cached = _CACHED.search(head) is not None
        if _CLOSES.search(head) and self.transport is not None:
            self.transport.close()
            self.transport = None
        self._end(head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        """End, perhaps with an answer owed."""
        self.transport = None
        self._end("reset")

    def _end(self, status: str) -> None:
        self.idle_since = time.perf_counter()
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(status)


class Clients:
    """All connections, with what they send and what came back."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.requests = [_request(job, Path(image)) for image in job.images]
        self.connections = [Connection() for _ in range(job.connections)]
        self.outcome = Outcome()
        self._sent = 0

    async def prepare(self) -> None:
        """Connect, and warm up."""
        for number, connection in enumerate(self.connections):
            await self._connect(number, connection)
        for _ in range(self.job.warm_up):
            for number in range(len(self.connections)):
                await self._ask(number)
        self.outcome, self._sent = Outcome(), 0

    async def run(self) -> Outcome:
        """Do the job."""
        started, cpu_s = time.perf_counter(), time.process_time()
        send = self._in_turn if self.job.requests is not None else self._at_rate
        await asyncio.gather(*(send(number) for number in range(len(self.connections))))
        self.outcome.seconds = time.perf_counter() - started
        self.outcome.client_cpu_s = time.process_time() - cpu_s
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.close()
        await asyncio.sleep(0)
        return self.outcome

    async def _in_turn(self, number: int) -> None:
        assert self.job.requests is not None
        while self._sent < self.job.requests:
            await self._ask(number)

    async def _at_rate(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self.job.connections / self.job.rate
        due = loop.time() + interval_s * number / self.job.connections
        end = loop.time() + self.job.seconds
        while due < end:
            await asyncio.sleep(max(0, due - loop.time()))
            await self._ask(number)
            due += interval_s
            while due < loop.time():
                self.outcome.unsent += 1
                due += interval_s

    async def _ask(self, number: int) -> None:
        connection = self.connections[number]
        request = self.requests[self._sent % len(self.requests)]
        self._sent += 1
        if connection.transport is not None and time.perf_counter() - connection.idle_since > _IDLE_S:
            connection.transport.abort()
            connection = self.connections[number] = Connection()
        if connection.transport is None or connection.transport.is_closing():
            try:
                await self._connect(number, connection)
            except OSError:
                self._count("refused")
                await asyncio.sleep(0.1)
                return
        started = time.perf_counter()
        try:
            status = await asyncio.wait_for(connection.send(request), _PATIENCE_S)
        except TimeoutError:
            status = "missing"
            if connection.transport is not None:
                connection.transport.abort()
        self._count(status)
        self.outcome.cached += connection.is_cached
        if status == "200":
            self.outcome.accepted_ms.append((time.perf_counter() - started) * 1000)

    def _count(self, status: str) -> None:
        self.outcome.statuses[status] = self.outcome.statuses.get(status, 0) + 1

    async def _connect(self, number: int, connection: Connection) -> None:
        address = (f"127.1.{number // 250}.{number % 250 + 1}", 0) if self.job.own_addresses else None
        await asyncio.get_running_loop().create_connection(
            lambda: connection, "127.0.0.1", self.job.port, local_addr=address
        )


def _request(job: Job, image: Path) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{job.field}"; filename="{image.name}"'
    start = f"--{_BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    body = start + image.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST {job.path} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAccept: */*\r\nUser-Agent: benchmark\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


async def _main() -> None:
    clients = Clients(Job(**json.loads(sys.stdin.readline())))
    await clients.prepare()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(await clients.run())), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
