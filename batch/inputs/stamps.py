"""How files, disks and paths are told apart: stamps of versions, mounts, and text that no other path has."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OCTAL = re.compile(rb"\\([0-7]{3})")
"""How Linux writes a space in the list of mounts."""

_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")
_ESCAPED = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")


def path_text(path: str) -> str:
    r"""Return a path as UTF-8 text that no other path has.

    A byte that is not UTF-8 is written as `\xff`; so a backslash before what looks like one is written as `\x5c`.
    """
    return _LOOKS_ESCAPED.sub(rb"\\x5c", os.fsencode(path)).decode("utf-8", "backslashreplace")


def as_path(text: str) -> str:
    """Return the path whose `path_text` is `text`."""
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """How to tell that a file was written anew, without reading it.

    Attributes:
        size: in bytes; None if its store doesn't say.
        written: when, in nanoseconds, or the store's own mark of this version; None if its store has none.
    """

    size: int | None
    written: str | None

    @classmethod
    def of_status(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a local file."""
        return cls(size=status.st_size, written=str(status.st_mtime_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file system that holds images of an input.

    Attributes:
        path: where it is mounted.
        device: its number, as this process found it; None if nothing was mounted there.
    """

    path: str
    device: int | None

    @classmethod
    def at(cls, path: str, points: frozenset[str] | None = None) -> Mount:
        """Return what is mounted at `path` now, if `points` are all places where something is mounted."""
        points = mount_points() if points is None else points
        try:
            return cls(path=path, device=os.stat(path).st_dev if path in points else None)  # noqa: PTH116
        except OSError:
            return cls(path=path, device=None)


def lost_mount(mounts: Sequence[Mount]) -> Mount | None:
    """Return one that is not mounted, or no longer; None if all are as this process found them."""
    points = mount_points() if mounts else frozenset()
    return next((each for each in mounts if each.device is None or Mount.at(each.path, points) != each), None)


def mount_points() -> frozenset[str]:
    """Return where file systems are mounted, also parts of one in another place; nothing where Linux doesn't say it."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    return frozenset(os.fsdecode(_OCTAL.sub(_byte, line.split(b" ")[4])) for line in lines)


def _byte(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8)])
