"""The INPUTs of a command, before any image in them is listed.

| named | what it gives |
|---|---|
| a folder | its images, searched recursively |
| a file | itself, whatever its name |
| `….tar`, or a name of a compressed one, such as `….tar.gz` | the images in it: WebDataset shards are such files |
| `….parquet` | a row each: its column holds encoded images, or their paths |
| `--files-from FILE`, `-` | the paths listed there, a line each |

Where a path stands, a URL that fsspec knows can stand too: `s3://bucket/photos`.
"""

from __future__ import annotations

import os
import platform
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batch.inputs.stamps import Mount, Stamp, lost_mount
from batch.inputs.stores import urls
from classifier.errors import DataError
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["folder", "file", "tar", "parquet", "list"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
PARQUET_SUFFIX = ".parquet"
HOLDER_SUFFIXES = (*TAR_SUFFIXES, PARQUET_SUFFIX)
"""Suffixes of files that hold images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A folder, file or list that holds images.

    Attributes:
        given: the path or URL as it was given, which the rows carry; for a file or a list, the folder of its paths.
        location: the absolute path without symbolic links, or the URL, of `given`.
        file: for a file, its name in the folder; for a list, the list's path; otherwise None.
        column: for a Parquet file, the column of images or paths.
        nul: whether entries of a list end in NUL instead of a line end.
        device: number of the file system that holds it; None for a URL.
        stamp: for a file that holds or lists images, its stamp when they were planned; None if they were not.
        inode: for a folder, its inode then.
        mounts: the file systems that held its images then.
    """

    given: str
    location: str
    kind: Kind = "folder"
    file: str | None = None
    column: str | None = None
    nul: bool = False
    device: int | None = None
    stamp: Stamp | None = None
    inode: int | None = None
    mounts: tuple[Mount, ...] = ()

    @property
    def path(self) -> str:
        """The absolute path, or the URL, of the input itself."""
        if self.file is None or urls.is_url(self.file):
            return self.file or self.location
        return "-" if self.file == "-" else os.path.join(self.location, self.file)  # noqa: PTH118

    def file_of(self, relative: str) -> str:
        """Return the path or URL of the image at a path below this input, if that is a file itself."""
        folder = os.path.dirname(self.location) if self.kind == "parquet" else self.location  # noqa: PTH120
        return os.path.join(folder, relative)  # noqa: PTH118

    def on_this_machine(self) -> Input:
        """Return an input of a plan, or one that another machine opened, as this machine has it.

        Raises:
            DataError: this machine can't read it.
        """
        if urls.is_url(self.location):
            return self
        try:
            status = os.stat(self.location)  # noqa: PTH116
        except OSError as error:
            raise DataError(
                f"the input '{utf8_text(self.location)}' can't be read ({error.strerror}) on {platform.node()}; "
                "make it readable there under this path"
            ) from error
        stamp = self.stamp
        if stamp is not None and self.kind != "list":
            # A copy on another machine may have its own time.
            now = Stamp.of_status(status)
            self.require_unchanged(replace(now, written=stamp.written))
            stamp = now
        mounts = tuple(each for each in (Mount.at(mount.path) for mount in self.mounts) if each.device is not None)
        inode = None if self.inode is None else status.st_ino
        return replace(self, device=status.st_dev, stamp=stamp, inode=inode, mounts=mounts)

    def require(self) -> None:
        """Check that the input and its disks are still there, to tell a missing image from a lost disk.

        Raises:
            DataError: one is gone, as after a disk or a share was unmounted.
        """
        if self.device is None:
            return
        if (fact := self._loss()) is not None:
            raise DataError(
                f"the input '{utf8_text(self.given)}' disappeared while its images were read ({fact}); "
                "bring it back, and the same command resumes the run"
            )

    def _loss(self) -> str | None:
        try:
            status = os.stat(self.location)  # noqa: PTH116
        except OSError as error:
            return str(error.strerror)
        if status.st_dev != self.device:
            return "another file system is mounted there"
        if lost := lost_mount(self.mounts):
            return f"the file system at '{utf8_text(lost.path)}', which held images of it, is gone"
        return "another folder has taken its place" if self.inode not in {None, status.st_ino} else None

    def require_untouched(self) -> None:
        """Check that the local file that holds the images is still the one that they were planned from.

        Raises:
            OSError: it is gone.
            DataError: it was written anew.
        """
        if self.stamp is not None and not urls.is_url(self.location):
            self.require_unchanged(Stamp.of_status(os.stat(self.location)))  # noqa: PTH116

    def require_unchanged(self, now: Stamp | None) -> None:
        """Check that the file that holds or lists the images is the one that they were planned from.

        Args:
            now: its stamp now; None if that is not known.

        Raises:
            DataError: it was written anew.
        """
        if self.stamp is None or now is None or now == self.stamp:
            return
        fact = "was written again"
        if now.size != self.stamp.size and None not in {now.size, self.stamp.size}:
            fact = f"had {self.stamp.size:,} bytes and has {now.size:,}"
        what = "list" if self.kind == "list" else f"{self.kind} file"
        raise DataError(
            f"the {what} '{utf8_text(self.path if self.kind == 'list' else self.given)}' {fact} after its images were "
            "planned, so other images could get their rows; restore it with its time ('cp -p', 'rsync -t'), or name "
            "another --output"
        )


def find_inputs(
    arguments: Sequence[str], *, files_from: str | None = None, nul: bool = False, column: str = "image"
) -> tuple[Input, ...]:
    """Return the inputs that a command names.

    Args:
        arguments: paths and URLs.
        files_from: a list of images, `-` for standard input; None for none.
        nul: whether its entries end in NUL.
        column: for Parquet files, the column of images or paths.

    Raises:
        DataError: an input is missing, can't hold images, or is inside another, which would plan its images twice.
    """
    inputs = [_find_url(each, column) if urls.is_url(each) else _find_path(each, column) for each in arguments]
    _refuse_twice(inputs)
    if files_from is not None:
        inputs.append(_find_list(files_from, nul=nul))
    return tuple(inputs)


def _refuse_twice(inputs: Sequence[Input]) -> None:
    seen: set[str] = set()
    for path in (input.path for input in inputs):
        if path in seen:
            raise DataError(f"the input '{utf8_text(path)}' is named twice; name it once")
        seen.add(path)
    folders = {input.location for input in inputs if input.kind == "folder"}
    for path in seen:
        if within := next((parent for parent in _parents(path) if parent in folders), None):
            raise DataError(
                f"the input '{utf8_text(path)}' is inside the input '{utf8_text(within)}' and would be classified "
                "twice; name only one of them"
            )


def _parents(path: str) -> list[str]:
    if not urls.is_url(path):
        return [str(parent) for parent in Path(path).parents]
    return [path[:end] for end, letter in enumerate(path) if letter == "/"]


def _find_path(argument: str, column: str) -> Input:
    given = os.path.normpath(argument)
    try:
        status = os.stat(argument)  # noqa: PTH116 # Path would drop a trailing slash, which demands a folder
    except OSError as error:
        raise DataError(
            f"the input '{utf8_text(argument)}' can't be read ({error.strerror}); name a folder of images, or an image"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        return Input(given=given, location=os.path.realpath(argument), device=status.st_dev)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"the input '{utf8_text(argument)}' is neither a folder nor a file; name one of the two")
    if kind := kind_of_file(given):
        return _holder(given, os.path.realpath(argument), kind, column, device=status.st_dev)
    folder, file = os.path.split(given)
    location = os.path.realpath(folder or ".")
    return Input(given=folder or ".", location=location, kind="file", file=file, device=os.stat(location).st_dev)  # noqa: PTH116


def _find_url(url: str, column: str) -> Input:
    given = url.rstrip("/")
    if kind := kind_of_file(given):
        return _holder(given, given, kind, column)
    if urls.is_folder(given):
        return Input(given=given, location=given)
    folder, _, file = given.rpartition("/")
    return Input(given=folder, location=folder, kind="file", file=file)


def _find_list(path: str, *, nul: bool) -> Input:
    here = Path.cwd()
    if path != "-" and not urls.is_url(path):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise DataError(f"the list '{utf8_text(path)}' can't be read ({error.strerror}); name a file") from error
        path = os.path.realpath(path)
    return Input(given=".", location=str(here), kind="list", file=path, nul=nul, device=here.stat().st_dev)


def kind_of_file(name: str) -> Literal["tar", "parquet"] | None:
    """Return what kind of file that holds images has such a name; None for any other file."""
    if name.lower().endswith(TAR_SUFFIXES):
        return "tar"
    return "parquet" if name.lower().endswith(PARQUET_SUFFIX) else None


def _holder(given: str, location: str, kind: Kind, column: str, *, device: int | None = None) -> Input:
    return Input(given=given, location=location, kind=kind, column=column if kind == "parquet" else None, device=device)
