"""What a plan was made of: the files that held images, and the disks under them.

It is kept beside the plan, so that a run stops at a file that was written anew, and at a disk that is gone, instead of
giving other images or none for the planned ones.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from batch.inputs.stores import urls
from classifier.types import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.inputs.named import Input
    from batch.inputs.opening import Found

_FOLDERS_REMEMBERED = 100_000

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

    @classmethod
    def of_url(cls, url: str) -> Stamp:
        """Return the stamp of an object.

        Raises:
            DataError: it does not exist, or can't be reached.
        """
        size, written = urls.version_of(url)
        return cls(size=size, written=written)


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
        points = _mount_points() if points is None else points
        try:
            return cls(path=path, device=os.stat(path).st_dev if path in points else None)  # noqa: PTH116
        except OSError:
            return cls(path=path, device=None)


def lost_mount(mounts: Sequence[Mount]) -> Mount | None:
    """Return one that is not mounted, or no longer; None if all are as this process found them."""
    points = _mount_points() if mounts else frozenset()
    return next((each for each in mounts if each.device is None or Mount.at(each.path, points) != each), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """An input of a plan. `folder` is the inode of an input that is a folder."""

    stamp: Stamp | None
    folder: int | None
    mounts: tuple[str, ...]


class Sources:
    """Collects what a plan is made of while it is made."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        # Before the first image is listed: what changes later differs from this.
        self._stamps = [_stamp_of(each) for each in inputs]
        self._mounts: list[set[str]] = [set() for _ in inputs]
        self._mount_points = _mount_points()
        self._seen: set[tuple[int, str]] = set()

    def add(self, number: int, found: Found) -> None:
        """Add an image of an input, at least the first of each folder."""
        relative, start, _ = found
        folder, input = (number, relative[: relative.rfind("/") + 1]), self._inputs[number]
        if start is not None or folder in self._seen or urls.is_url(input.location) or urls.is_url(relative):
            return
        if len(self._seen) == _FOLDERS_REMEMBERED:
            self._seen.clear()
        self._seen.add(folder)
        mount = os.path.realpath(os.path.dirname(input.file_of(relative)))  # noqa: PTH120
        while mount not in self._mount_points and mount != os.path.dirname(mount):  # noqa: PTH120
            mount = os.path.dirname(mount)  # noqa: PTH120
        self._mounts[number].add(mount)

    def write(self, file: BinaryIO) -> None:
        """Write all that was added durably to `file`.

        Raises:
            OSError: it can't be written.
        """
        found = [
            _Source(
                stamp=stamp,
                folder=os.stat(input.location).st_ino if _is_local_folder(input) else None,  # noqa: PTH116
                mounts=tuple(map(path_text, sorted(mounts & self._mount_points))),
            )
            for input, stamp, mounts in zip(self._inputs, self._stamps, self._mounts, strict=True)
        ]
        file.write(to_json(found))
        file.flush()
        os.fsync(file.fileno())


def inputs_as_planned(plan: Path, inputs: Sequence[Input], *, resumed: bool) -> tuple[Input, ...]:
    """Return the inputs of a run with what its plan was made of, to tell changes of them.

    Args:
        plan: its path.
        inputs: of the run.
        resumed: whether the plan is an earlier process's, so that they may have changed.

    Raises:
        DataError: a file that holds images, or a list of them, was written anew.
    """
    try:
        sources = from_json(beside(plan).read_bytes(), list[_Source])
    except (OSError, ValueError):
        return tuple(inputs)  # of a run that an older Tandem began
    planned = tuple(
        replace(
            input,
            stamp=source.stamp,
            inode=source.folder,
            mounts=tuple(Mount.at(as_path(each)) for each in source.mounts),
        )
        for input, source in zip(inputs, sources, strict=True)
    )
    for input in planned if resumed else ():
        input.require_unchanged(_stamp_of(input))
    return planned


def stamps_of(plan: Path) -> list[Stamp | None] | None:
    """Return the stamp of each input of the plan at `plan`; None if an older Tandem made it."""
    try:
        return [source.stamp for source in from_json(beside(plan).read_bytes(), list[_Source])]
    except (OSError, ValueError):
        return None


def beside(plan: Path) -> Path:
    """Return the path of what the plan at `plan` was made of."""
    return plan.with_name("sources.json")


def _is_local_folder(input: Input) -> bool:
    return input.kind == "folder" and not urls.is_url(input.location)


def _stamp_of(input: Input) -> Stamp | None:
    if input.kind in {"folder", "file"} or input.path == "-":
        return None
    if urls.is_url(input.path):
        return Stamp.of_url(input.path)
    status = os.stat(input.path)  # noqa: PTH116
    return Stamp.of_status(status) if stat.S_ISREG(status.st_mode) else None


def _mount_points() -> frozenset[str]:
    """Return where file systems are mounted, also parts of one in another place; nothing where Linux doesn't say it."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    return frozenset(os.fsdecode(_OCTAL.sub(_byte, line.split(b" ")[4])) for line in lines)


def _byte(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8)])
