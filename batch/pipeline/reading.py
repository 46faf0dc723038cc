"""Reads and decodes images on a few threads, in order, a bounded number ahead of the inference."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.inputs.archives import is_compressed, read_span, read_tar
from batch.inputs.tables import read_table
from batch.inputs.urls import is_url, read_url
from batch.pipeline.ahead import map_ahead
from classifier.errors import ImageError, ImageTooLarge, UnreadableImage
from classifier.hardware import cpu_limit
from classifier.images import LIMITS, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile
    from classifier.images import DecodedImage

GROUP = 8
"""Files handed to a thread at once. Handing over eight takes no longer than one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImage:
    """An image that was read and decoded, or the error that prevented it.

    Attributes:
        bytes: the file's size; None if it could not be read.
        sha256: of the file, in hexadecimal; None if it could not be read.
        image: the decoded image, or the error.
    """

    file: ImageFile
    bytes: int | None
    sha256: str | None
    image: DecodedImage | ImageError


def load_image(file: ImageFile, decode: Callable[[bytes], DecodedImage]) -> LoadedImage:
    """Return the image of a file, or the error that prevented it: one bad image is a row, not a crash."""
    try:
        data = read_file(file)
    except ImageError as error:
        file.input.require()  # otherwise every image of a lost disk would be reported missing
        return LoadedImage(file=file, bytes=None, sha256=None, image=error)
    file = replace(file, data=None)  # releases its bytes
    image: DecodedImage | ImageError
    try:
        image = decode(data)
    except ImageError as error:
        image = error
    return LoadedImage(file=file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), image=image)


def read_file(file: ImageFile) -> bytes:
    """Return the bytes of an image, wherever it is.

    Raises:
        ImageError: the image can't be read.
        DataError: the file that holds it can't be read.
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
        data = read_span(file.location, file.start, size)
    except OSError as error:
        raise UnreadableImage(f"{file.relative!r} can't be read ({error.strerror}): check the disk") from error
    if len(data) < size:
        raise UnreadableImage(
            f"{file.relative!r} is incomplete because its tar file is truncated: copy the tar file again"
        )
    return data


def _read_url(file: ImageFile) -> bytes:
    if file.start is not None:
        return read_url(file.location, start=file.start, end=file.start + (file.size or 0))
    # The object may have grown since it was listed. An empty object has no range to ask for.
    data = read_url(file.location) if file.size == 0 else read_url(file.location, start=0, end=LIMITS.max_bytes + 1)
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
        is_waiting = file.start is not None and file.data is None and _is_sequential(file.input)
        if not is_waiting or (file.size or 0) > LIMITS.max_bytes:
            yield file
            continue
        if read is None or file.input is not source:
            source, read = file.input, _read_in_order(file.input)
        assert file.start is not None
        yield replace(file, data=read.send((file.start, file.size or 0)))


def _is_sequential(input: Input) -> bool:
    return input.kind == "parquet" or (input.kind == "tar" and is_compressed(input))


def _read_in_order(input: Input) -> Generator[bytes, tuple[int, int]]:
    reader = read_table(input) if input.kind == "parquet" else read_tar(input)
    next(reader)  # to the point where it waits for a place
    return reader


def load_images(
    files: Iterable[ImageFile],
    load: Callable[[Sequence[ImageFile]], list[LoadedImage]],
    *,
    threads: int,
    ahead: int,
) -> Generator[LoadedImage]:
    """Yield the images of `files`, in order, loaded by `load` in groups.

    Up to `ahead` images are loaded in advance, plus one group for each thread.

    Raises:
        DataError: a file that holds images can't be read, or an input disappeared.
    """
    groups = map_ahead(load, _groups(with_data(files)), threads=threads, ahead=-(-ahead // GROUP) + threads)
    with closing(groups):
        for group in groups:
            yield from group


def _groups(files: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    """Yield the files in groups, each handed to a thread at once."""
    group: list[ImageFile] = []
    for file in files:
        group.append(file)
        # A file that carries its bytes goes alone: it may be large.
        if len(group) == GROUP or file.data is not None:
            yield group
            group = []
    if group:
        yield group


def decode_threads(asked: int | None) -> int:
    """Return the number of threads that read and decode: `asked`, or one for each CPU."""
    return asked or cpu_limit()
