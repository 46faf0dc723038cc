"""Lists the images of the inputs in a fixed order, in memory that does not grow with their number.

Inputs keep their order. Folders are in the order of the paths' bytes; tar files, Parquet files and lists in their own.
"""

from __future__ import annotations

import heapq
import marshal
import os
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from batch.inputs import urls
from batch.inputs.archives import list_tar
from batch.inputs.tables import list_table
from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Sequence

    from batch.inputs.named import Input
    from batch.inputs.opening import Found

MAX_NAMES = 100_000
"""Names of one folder kept in memory, about 10 MB. A larger folder is sorted on disk."""

MAX_PATH_BYTES = 1 << 16
"""Maximum length of a path or URL in a list. A longer entry means that the list has other line ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries of folders and tar files are taken.

    A pattern matches as in `find`: with a slash, the path below the input (`find -path`); otherwise the name
    (`find -name`).

    Attributes:
        include: patterns of images; empty for the suffixes of the accepted formats.
        exclude: patterns of images and folders to leave out.
        follow_symlinks: whether symbolic links are followed.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False

    def reason_to_skip(self, path: str, *, is_folder: bool = False) -> str | None:
        """Return why the image or folder at `path`, below its input, is skipped; None if it is taken."""
        name = path.rpartition("/")[2]
        if name.startswith("."):
            return "hidden"
        if any(_matches(path, name, pattern) for pattern in self.exclude):
            return "excluded"
        if is_folder:
            return None
        if self.include:
            return None if any(_matches(path, name, pattern) for pattern in self.include) else "not included"
        return None if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else "other suffix"


SUFFIXES_ALONE = Selection()


def _matches(path: str, name: str, pattern: str) -> bool:
    return fnmatchcase(path if "/" in pattern else name, pattern)


def list_images(
    inputs: Sequence[Input], skipped: Counter[str], selection: Selection = SUFFIXES_ALONE
) -> Iterator[tuple[int, Found]]:
    """Yield each image with the number of its input. Skipped entries are counted in `skipped`, by reason.

    In folders and tar files, an image is a regular file that the selection takes. Hidden entries, symbolic links and
    special files are skipped. A file named on the command line, in a list or in a Parquet file is always an image.

    Raises:
        DataError: an input can't be read or listed to its end: images would be lost silently.
    """
    for number, input in enumerate(inputs):
        for found in _list(input, skipped, selection):
            if "\0" in found[0]:
                raise DataError(f"the input '{utf8_text(input.given)}' holds a name with a NUL; rename {found[0]!r}")
            yield number, found


def _list(input: Input, skipped: Counter[str], selection: Selection) -> Iterator[Found]:
    if input.kind == "folder":
        return _walk(input, skipped, selection)
    if input.kind == "tar":
        return list_tar(input, skipped, selection.reason_to_skip)
    if input.kind == "parquet":
        return list_table(input)
    if input.kind == "list":
        return _read_list(input)
    assert input.file is not None
    return iter(((input.file, None, None),))


def _walk(input: Input, skipped: Counter[str], selection: Selection) -> Iterator[Found]:
    # Depth first without recursion: folders can be nested deeper than Python recurses. Folder names end in "/" when
    # they are sorted, so the order is that of whole paths.
    scan = _scan_url if urls.is_url(input.location) else _scan
    pending = [_in_order(scan(input, "", skipped, selection))]
    folders = [""]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            folders.pop()
            continue
        name, size = found
        relative = folders[-1] + os.fsdecode(name)
        if name.endswith(b"/"):
            pending.append(_in_order(scan(input, relative, skipped, selection)))
            folders.append(relative)
        else:
            yield relative, None, size


def _scan(input: Input, folder: str, skipped: Counter[str], selection: Selection) -> Iterator[tuple[bytes, int | None]]:
    """Yield the names of the images in a folder, and of its folders with a slash appended."""
    try:
        with os.scandir(os.path.join(input.location, folder)) as entries:  # noqa: PTH118
            for entry in entries:
                reason, is_folder = _look_at(entry, input, folder, selection)
                if reason is None:
                    yield os.fsencode(entry.name) + b"/" * is_folder, None
                else:
                    skipped[reason] += 1
    except OSError as error:
        raise DataError(
            f"the folder '{utf8_text(os.path.join(input.given, folder))}' can't be listed "  # noqa: PTH118
            f"({error.strerror}); make it readable, or name only the folders that are"
        ) from error


def _look_at(entry: os.DirEntry[str], input: Input, folder: str, selection: Selection) -> tuple[str | None, bool]:
    """Return why an entry is skipped, if it is, and whether it is a folder."""
    follow, is_link = selection.follow_symlinks, entry.is_symlink()
    # os.path.isdir is False for a link that leads nowhere, or to itself.
    is_folder = os.path.isdir(entry.path) if is_link and follow else entry.is_dir(follow_symlinks=False)  # noqa: PTH112
    if reason := selection.reason_to_skip(folder + entry.name, is_folder=is_folder or (is_link and not follow)):
        return reason, is_folder
    if is_link and not follow:
        return "symbolic link", False
    if is_folder:
        return "link to a folder above" if is_link and _is_loop(entry, input, folder) else None, True
    # A link without a target is a missing image, and gets a row that says so.
    if is_link and not os.path.exists(entry.path):  # noqa: PTH110
        return None, False
    return None if entry.is_file() else "special file", False


def _is_loop(link: os.DirEntry[str], input: Input, folder: str) -> bool:
    """Return whether a link leads to a folder above it."""
    target = os.stat(link.path)  # noqa: PTH116
    above = os.path.join(input.location, folder).rstrip("/")  # noqa: PTH118
    while len(above) >= len(input.location):
        if os.path.samestat(os.stat(above), target):  # noqa: PTH116
            return True
        above = os.path.dirname(above)  # noqa: PTH120
        if above == "/":
            break
    return False


def _scan_url(
    input: Input, folder: str, skipped: Counter[str], selection: Selection
) -> Iterator[tuple[bytes, int | None]]:
    for name, is_folder, size in urls.list_folder(f"{input.location}/{folder}".rstrip("/")):
        if reason := selection.reason_to_skip(folder + name, is_folder=is_folder):
            skipped[reason] += 1
        else:
            yield os.fsencode(name) + b"/" * is_folder, None if is_folder else size


def _in_order(names: Iterable[tuple[bytes, int | None]]) -> Iterator[tuple[bytes, int | None]]:
    """Return the names of one folder, sorted by their bytes, in bounded memory."""
    runs: list[Iterator[tuple[bytes, int | None]]] = []
    run: list[tuple[bytes, int | None]] = []
    for name in names:
        run.append(name)
        if len(run) == MAX_NAMES:
            runs.append(_spill(sorted(run)))
            run.clear()
    run.sort()
    return heapq.merge(run, *runs) if runs else iter(run)


def _spill(run: list[tuple[bytes, int | None]]) -> Iterator[tuple[bytes, int | None]]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 # `_unspill` closes it
    for item in run:
        marshal.dump(item, file)
    file.seek(0)
    return _unspill(file)


def _unspill(file: IO[bytes]) -> Iterator[tuple[bytes, int | None]]:
    with file:
        while True:
            try:
                yield marshal.load(file)  # noqa: S302 # a temporary file that only this process can open
            except EOFError:
                return


def _read_list(input: Input) -> Iterator[Found]:
    assert input.file is not None
    ending = b"\0" if input.nul else b"\n"
    try:
        with urls.reaching(input.path), closing(_open_list(input.file)) as file:
            for line in read_records(file, ending, at_most=MAX_PATH_BYTES):
                name = line if input.nul else line.removesuffix(b"\r")
                if b"\0" in name or len(name) > MAX_PATH_BYTES:
                    fact = "NULs" if b"\0" in name else f"a path of more than {MAX_PATH_BYTES:,} bytes"
                    raise DataError(
                        f"the list '{utf8_text(input.path)}' holds {fact}; end its paths in line ends, or in NUL and "
                        "add -0"
                    )
                if name:
                    yield os.fsdecode(name), None, None
    except OSError as error:
        raise DataError(f"the list '{utf8_text(input.path)}' can't be read ({error.strerror}); name a file") from error


def _open_list(path: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    return urls.open_url(path) if urls.is_url(path) else open(path, "rb")  # noqa: PTH123


def read_records(file: IO[bytes], ending: bytes, *, at_most: int | None = None) -> Iterator[bytes]:
    """Yield the records of a file, which end in `ending`; the last one may lack it.

    A record of more than `at_most` bytes is yielded incomplete, as the last one, so that a file with other endings is
    not read into memory.
    """
    rest = b""
    while block := file.read(1 << 16):
        *records, rest = (rest + block).split(ending)
        yield from records
        if at_most is not None and len(rest) > at_most:
            break
    if rest:
        yield rest
