"""A thousand connections that send five times what the service can do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.serving.clients import measure, send
from benchmarks.serving.processes import pss_bytes
from service import limits

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.serving.servers import Server

CONNECTIONS, TIMES = 1000, 5
ALLOWED = {"200", "429", "503"}
MB = 1_000_000
_SAMPLE_EVERY_S = 2.0
_FILLED_S = 15
"""After this the queue, the buffers and the allocator are as full as overload makes them."""


@dataclass(frozen=True, kw_only=True)
class Overload:
    """What was seen.

    Attributes:
        capacity: answers a second with 16 clients, before.
        bound_s: of the queue: how long as many requests as may be in flight take at that rate.
        unsent: requests whose connection still waited when their turn came.
        memory_mb: of the process tree (PSS), seconds after the start and MB.
    """

    minutes: float
    capacity: float
    bound_s: float
    statuses: dict[str, int]
    unsent: int
    p50_s: float
    p99_s: float
    memory_mb: list[tuple[float, float]] = field(default_factory=list)

    @property
    def others(self) -> int:
        """Answers other than those that overload may give, and requests without an answer."""
        return sum(count for status, count in self.statuses.items() if status not in ALLOWED)

    @property
    def growth_mb(self) -> float:
        """Memory of the last sample, above that when everything was full."""
        full = [memory for at_s, memory in self.memory_mb if at_s >= _FILLED_S]
        return full[-1] - full[0] if full else 0.0

    def print(self) -> None:
        """Print it."""
        rate = self.capacity * TIMES
        print(f"\nOverload: {CONNECTIONS:,} connections, {rate:,.0f} requests/s for {self.minutes:g} min")
        print(f"  capacity {self.capacity:,.0f}/s, so that {limits.MAX_IN_FLIGHT} in flight take {self.bound_s:.2f} s")
        print(f"  answers  {', '.join(f'{count:,} × {status}' for status, count in sorted(self.statuses.items()))}")
        print(f"  unsent   {self.unsent:,}: their connection still waited for an answer")
        print(f"  accepted median {self.p50_s:.2f} s, p99 {self.p99_s:.2f} s")
        print(f"  memory   {self.memory_mb[0][1]:.0f} MB → {self.memory_mb[-1][1]:.0f} MB, {self.growth_mb:+.0f} MB")


def overload(server: Server, images: list[Path], *, minutes: float, requests: int) -> Overload:
    """Return what `server` does with too much for `minutes`."""
    measure(server, images, clients=16, requests=requests)
    capacity = measure(server, images, clients=16, requests=requests).per_s
    started, memory = time.monotonic(), []

    def sample() -> None:
        memory.append((time.monotonic() - started, pss_bytes(server.process.pid) / MB))
        time.sleep(_SAMPLE_EVERY_S)

    outcome = send(
        *(server, images),
        meanwhile=sample,
        connections=CONNECTIONS,
        rate=TIMES * capacity,
        seconds=60 * minutes,
        warm_up=0,
        own_addresses=True,
    )
    accepted_s = sorted(each / 1000 for each in outcome.accepted_ms) or [float("inf")]
    return Overload(
        minutes=minutes,
        capacity=capacity,
        bound_s=limits.MAX_IN_FLIGHT / capacity,
        statuses=dict(outcome.statuses),
        unsent=outcome.unsent,
        p50_s=accepted_s[len(accepted_s) // 2],
        p99_s=accepted_s[int(len(accepted_s) * 0.99)],
        memory_mb=memory,
    )
