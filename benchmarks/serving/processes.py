"""CPU time and memory of a server with all processes that it started, read from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MISSING = (FileNotFoundError, ProcessLookupError)  # a process that ended between the list and the look


def tree_of(root: int) -> list[int]:
    """Return the ids of `root` and its descendants, and of those of its session whose parent has ended."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(*_MISSING):
            fields = _stat(int(folder.name))
            parents[int(folder.name)], sessions[int(folder.name)] = int(fields[1]), int(fields[3])
    found = {pid for pid, session in sessions.items() if session == root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def cpu_seconds(root: int) -> float:
    """Return the user and system time of the tree of `root`, with that of its children that have ended.

    `root` leads a session of its own, as after `Popen(…, start_new_session=True)`.
    """
    ticks = 0
    for pid in tree_of(root):
        with contextlib.suppress(*_MISSING):
            ticks += sum(map(int, _stat(pid)[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS_PER_S


def pss_bytes(root: int) -> int:
    """Return the memory of the tree of `root`: pages that several processes share count once (PSS)."""
    total = 0
    for pid in tree_of(root):
        with contextlib.suppress(*_MISSING):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: the second, the name, may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
