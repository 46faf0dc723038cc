"""Lists the images of the inputs in a fixed order, in memory that does not grow with their number.

Inputs keep their order. Folders are in the order of the paths' bytes; tar files, Parquet files and lists in their own.
"""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import closing
from itertools import chain
from typing import IO, TYPE_CHECKING

from batch.inputs.folders import walk
from batch.inputs.holders.archives import list_tar
from batch.inputs.holders.tables import list_table
from batch.inputs.named import HOLDER_SUFFIXES, kind_of_file
from batch.inputs.selection import SUFFIXES_ALONE
from batch.inputs.stores import urls
from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from batch.inputs.holders.opening import Found
    from batch.inputs.named import Input
    from batch.inputs.selection import Selection

MAX_PATH_BYTES = 1 << 16
"""Maximum length of a path or URL in a list. A longer entry means that the list has other line ends."""

_LAST_OF_IMAGES = frozenset(suffix[-1] for suffix in IMAGE_SUFFIXES) - {suffix[-1] for suffix in HOLDER_SUFFIXES}
"""Letters at the end of a name that tell most images from files that hold images: lists can have 100 million."""


def list_images(
    inputs: Sequence[Input], skipped: Counter[str], selection: Selection = SUFFIXES_ALONE
) -> Iterator[tuple[int, Found]]:
    """Yield each image with the number of its input. Skipped entries are counted in `skipped`, by reason.

    In folders, buckets and tar files, an image is a regular file that the selection takes. Hidden entries, the folders
    of other systems, symbolic links and special files are skipped, with everything below them. A file named on the
    command line, in a list or in a Parquet file is always an image.

    Raises:
        DataError: an input can't be read or listed to its end: images would be lost silently; or a list or a Parquet
            file names a file that holds images.
    """
    for number, input in enumerate(inputs):
        are_names = input.kind in {"list", "parquet"}
        for found in _list(input, skipped, selection):
            if "\0" in found[0]:
                raise DataError(f"the input '{utf8_text(input.given)}' holds a name with a NUL; rename {found[0]!r}")
            if are_names and found[1] is None and found[0][-1:] not in _LAST_OF_IMAGES and kind_of_file(found[0]):
                raise DataError(
                    f"the {input.kind} '{utf8_text(input.path)}' names '{utf8_text(found[0])}', which holds images and "
                    "is not one; name it as an INPUT ('tandem batch $(cat LIST)' for a list of them)"
                )
            yield number, found


def _list(input: Input, skipped: Counter[str], selection: Selection) -> Iterator[Found]:
    if input.kind == "folder":
        return walk(input, skipped, selection)
    if input.kind == "tar":
        return list_tar(input, skipped, selection)
    if input.kind == "parquet":
        return list_table(input)
    if input.kind == "list":
        return _read_list(input)
    assert input.file is not None
    return iter(((input.file, None, None),))


def _read_list(input: Input) -> Iterator[Found]:
    assert input.file is not None
    ending = b"\0" if input.nul else b"\n"
    try:
        with urls.reaching(input.path), closing(_open_list(input.file)) as file:
            records = read_records(file, ending, at_most=MAX_PATH_BYTES)
            for line in chain((_without_mark(input, next(records, b"")),), records):
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


def _without_mark(input: Input, line: bytes) -> bytes:
    """Return the first line of a list without the byte order mark that editors on Windows write."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in line:
        raise DataError(f"the list '{utf8_text(input.path)}' is UTF-16; save it as UTF-8")
    return line.removeprefix(codecs.BOM_UTF8)


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
