"""Reads the bytes of an image, wherever it is: a file, a place in a tar file, a row of a table, a URL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.inputs.holders.archives import read_span, read_tar
from batch.inputs.holders.opening import is_compressed
from batch.inputs.holders.tables import read_table
from batch.inputs.stores.objects import read_object, read_range
from batch.inputs.stores.urls import is_url
from classifier.errors import ImageTooLarge, UnreadableImage
from classifier.images import LIMITS, read_image

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile


def read_file(file: ImageFile) -> bytes:
    """Return the bytes of an image, wherever it is.

    Raises:
        ImageError: the image can't be read.
        DataError: the file that holds it can't be read or was written anew, or its store fails for all images.
    """
    limit = LIMITS.max_bytes
    size = len(file.data) if file.data is not None else file.size or 0
    if size > limit:
        raise ImageTooLarge(f"{file.relative!r} has {size:,} bytes, over the limit of {limit:,}: shrink or compress it")
    if file.data is not None:
        return file.data
    if is_url(file.location):
        return _read_url(file)
    if file.start is None:
        return read_image(Path(file.location))
    try:
        data = read_span(file.input, file.start, size)
    except OSError as error:
        raise UnreadableImage(f"{file.relative!r} can't be read ({error.strerror}): check the disk") from error
    if len(data) < size:
        raise UnreadableImage(
            f"{file.relative!r} is incomplete because its tar file is truncated: copy the tar file again"
        )
    return data


def _read_url(file: ImageFile) -> bytes:
    if file.start is not None:
        return read_range(file.location, file.start, file.size or 0, stamp=file.input.stamp)
    # The object may have grown since it was listed.
    data = read_object(file.location, at_most=LIMITS.max_bytes + 1)
    if len(data) > LIMITS.max_bytes:
        raise ImageTooLarge(f"{file.relative!r} is over the limit of {LIMITS.max_bytes:,} bytes: shrink or compress it")
    return data


def with_data(files: Iterable[ImageFile]) -> Iterator[ImageFile]:
    """Yield the images, with their bytes if those can only be read in order.

    Raises:
        DataError: a compressed tar file or a table can't be read.
    """
    source: Input | None = None
    read: Generator[bytes, tuple[int, int]] | None = None
    for file in files:
        if file.start is not None and file.input is not source:
            source, read = file.input, _read_in_order(file.input)
        if file.start is None or file.data is not None or read is None or (file.size or 0) > LIMITS.max_bytes:
            yield file
        else:
            yield replace(file, data=read.send((file.start, file.size or 0)))


def _read_in_order(input: Input) -> Generator[bytes, tuple[int, int]] | None:
    """Return what reads an input's images in order; None if they can be read in any order."""
    if input.kind == "tar" and not is_compressed(input):
        return None
    reader = read_table(input) if input.kind == "parquet" else read_tar(input)
    next(reader)  # to the point where it waits for a place
    return reader
