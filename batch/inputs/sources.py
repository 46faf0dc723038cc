"""What a plan was made of: the files that held images, and the disks under them.

It is kept beside the plan, so that a run stops at a file that was written anew, and at a disk that is gone, instead of
giving other images or none for the planned ones.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from batch.inputs.stamps import Mount, Stamp, as_path, mount_points, path_text
from batch.inputs.stores import urls
from classifier.types import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batch.inputs.holders.opening import Found
    from batch.inputs.named import Input

_FOLDERS_REMEMBERED = 100_000


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
        self._mount_points = mount_points()
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
    sources = _read(plan)
    if sources is None:
        return tuple(inputs)
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
    sources = _read(plan)
    return None if sources is None else [source.stamp for source in sources]


def _read(plan: Path) -> list[_Source] | None:
    """Return what a plan was made of; None if an older Tandem made it."""
    try:
        return from_json(beside(plan).read_bytes(), list[_Source])
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
        return urls.stamp_of(input.path)
    status = os.stat(input.path)  # noqa: PTH116
    return Stamp.of_status(status) if stat.S_ISREG(status.st_mode) else None
