"""Reads and decodes images on a few threads, in order, a bounded number ahead of the inference."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch.pipeline.ahead import map_ahead
from batch.pipeline.reading import read_file, with_data
from classifier.errors import ImageError
from classifier.hardware import cpu_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

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
