"""What it takes until a service is ready, and what it holds while it has nothing to do."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.serving.processes import pss_bytes
from benchmarks.serving.servers import running
from classifier.wording import table_lines

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.serving.servers import Contender

_SETTLED_S = 2
MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Start:
    """Of one server, a value for each round.

    Attributes:
        cpu_s: of the whole process tree, until its path for that answered 200.
        idle_mb: memory of the tree (PSS) two seconds later.
    """

    cpu_s: list[float] = field(default_factory=list)
    idle_mb: list[float] = field(default_factory=list)


def compare_starts(contenders: list[Contender], work: Path, rounds: int) -> dict[str, Start]:
    """Return what each start took, in rounds that take turns, after one that fills the caches."""
    found = {each.name: Start() for each in contenders}
    for number in range(rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            with running(contender, work) as server:
                time.sleep(_SETTLED_S)
                if number:
                    found[contender.name].cpu_s.append(server.start_s)
                    found[contender.name].idle_mb.append(pss_bytes(server.process.pid) / MB)
    return found


def print_starts(found: dict[str, Start]) -> None:
    """Print a row for each server."""
    rounds = len(next(iter(found.values())).cpu_s)
    print(f"\nStart to ready, and idle: medians of {rounds} starts")
    rows = [
        (
            *(name, f"{statistics.median(each.cpu_s):.2f}", f"{min(each.cpu_s):.2f} … {max(each.cpu_s):.2f}"),
            f"{statistics.median(each.idle_mb):.0f}",
        )
        for name, each in found.items()
    ]
    print("\n".join(table_lines(("", "CPU S TO READY", "LEAST … MOST", "IDLE MB (PSS)"), rows)))
