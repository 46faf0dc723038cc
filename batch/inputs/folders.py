"""The images of folders, on disk or behind a URL, in the order of their paths' bytes."""

from __future__ import annotations

import heapq
import marshal
import os
import tempfile
from typing import IO, TYPE_CHECKING

from batch.inputs.stores import urls
from classifier.errors import DataError
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from batch.inputs.holders.opening import Found
    from batch.inputs.named import Input
    from batch.inputs.selection import Selection

MAX_NAMES = 100_000
"""Names of one folder kept in memory, about 10 MB. A larger folder is sorted on disk."""


def walk(input: Input, skipped: Counter[str], selection: Selection) -> Iterator[Found]:
    """Yield the images below a folder. Skipped entries are counted in `skipped`, a folder once with all that is in it.

    Raises:
        DataError: a folder can't be listed.
    """
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
        # A key such as `a//b.png`: no driver lists what is below an empty name.
        if reason := selection.reason_to_skip(folder + name, is_folder=is_folder) if name else "empty folder name":
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
