"""Measure servers in rounds that take turns, and compare them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.serving.clients import measure
from benchmarks.serving.servers import FASTAPI, FASTAPI_TUNED, TANDEM
from classifier.wording import table_lines

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.serving.clients import Measured
    from benchmarks.serving.servers import Server

BASES = (FASTAPI, FASTAPI_TUNED)
HEADINGS = (
    *("", "CPU MS PER REQUEST", "LEAST … MOST", "× FASTAPI", "× NO SPINNING"),
    *("REQUESTS/S", "MEDIAN MS", "CLIENT'S CPU MS"),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured of each server at one number of clients, a value for each round."""

    title: str
    clients: int
    requests: int
    rounds: dict[str, list[Measured]] = field(default_factory=dict)

    def cpu_ms(self, name: str) -> float:
        """Return the median CPU milliseconds per request."""
        return statistics.median(each.cpu_ms for each in self.rounds[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median, over the rounds, of CPU time against that of `base` in the same round."""
        pairs = zip(self.rounds[name], self.rounds[base], strict=True)
        return statistics.median(one.cpu_ms / other.cpu_ms for one, other in pairs)

    def print(self) -> None:
        """Print a row for each server."""
        print(f"\n{self.title}, {self.clients} at once: medians of {self._count} rounds of {self.requests} requests")
        rows = []
        for name, rounds in self.rounds.items():
            cpu = [each.cpu_ms for each in rounds]
            others = [statistics.median(getattr(each, what) for each in rounds) for what in ("per_s", "median_ms")]
            client_cpu_ms = statistics.median(each.client_cpu_ms for each in rounds)
            rows.append(
                (
                    *(name, f"{self.cpu_ms(name):.2f}", f"{min(cpu):.2f} … {max(cpu):.2f}"),
                    *(f"{self.ratio(name, base):.2f}" if base in self.rounds else "" for base in BASES),
                    *(f"{others[0]:,.0f}", f"{others[1]:.1f}", f"{client_cpu_ms:.2f}"),
                )
            )
        print("\n".join(table_lines(HEADINGS, rows)))

    @property
    def _count(self) -> int:
        return len(self.rounds[TANDEM])


def compare(
    title: str, servers: dict[str, Server], images: list[Path], *, clients: int, requests: int, rounds: int
) -> Comparison:
    """Return the comparison, after a round that warms up and doesn't count. Who comes first takes turns."""
    found = Comparison(title=title, clients=clients, requests=requests, rounds={name: [] for name in servers})
    for number in range(rounds + 1):
        order = list(servers) if number % 2 else list(reversed(servers))
        for name in order:
            count = requests if number else max(clients, requests // 4)
            measured = measure(servers[name], images, clients=clients, requests=count)
            if number:
                found.rounds[name].append(measured)
    return found
