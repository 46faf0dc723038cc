"""Read and decode: a few threads, ahead of the inference, in order, and never further ahead than they should be."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from batch.inputs.containers import is_sequential, read_in_order, read_span
from batch.inputs.urls import is_url, read_url
from classifier.errors import ImageError, ImageTooLarge, UnreadableImage
from classifier.hardware import cpu_limit
from classifier.images import LIMITS, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile
    from classifier.images import DecodedImage

GROUP = 8
"""Files that a thread is handed at once. Handing over one takes as long."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImage:
    """An image that was read and decoded, or the error that stopped it.

    Attributes:
        bytes: the file's size; None where it could not be read.
        sha256: of the file, in hexadecimal; None where it could not be read.
        image: what the model takes, or the error.
    """

    file: ImageFile
    bytes: int | None
    sha256: str | None
    image: DecodedImage | ImageError


def load_image(file: ImageFile, decode: Callable[[bytes], DecodedImage]) -> LoadedImage:
    """Return the image of a file, or the error that stopped it: one bad image is a row, not a crash."""
    try:
        data = read_file(file)
    except ImageError as error:
        file.input.require()  # or each image of a disk that went away would be missing
        return LoadedImage(file=file, bytes=None, sha256=None, image=error)
    file = replace(file, data=None)  # its bytes are not needed any more
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
        DataError: what holds it can't be.
    """
    limit = LIMITS.max_bytes
    size = len(file.data) if file.data is not None else file.size or 0
    if size > limit:
        raise ImageTooLarge(f"{file.relative!r} has {size:,} bytes, over the limit of {limit:,}: encode it smaller")
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
        raise UnreadableImage(f"{file.relative!r} is cut off, as its tar file is: copy that again")
    return data


def _read_url(file: ImageFile) -> bytes:
    if file.start is not None:
        return read_url(file.location, start=file.start, end=file.start + (file.size or 0))
    # The object may have grown since it was listed. Of an empty one, no range can be asked for.
    data = read_url(file.location) if file.size == 0 else read_url(file.location, start=0, end=LIMITS.max_bytes + 1)
    if len(data) > LIMITS.max_bytes:
        raise ImageTooLarge(f"{file.relative!r} has over {LIMITS.max_bytes:,} bytes, the limit: encode it smaller")
    return data


def with_data(files: Iterable[ImageFile]) -> Iterator[ImageFile]:
    """Yield the images, with their bytes where those can only be read in order.

    Raises:
        DataError: a compressed tar file or a table can't be read.
    """
    source: Input | None = None
    read: Callable[[int, int], bytes] | None = None
    for file in files:
        is_waiting = file.start is not None and file.data is None and is_sequential(file.input)
        if not is_waiting or (file.size or 0) > LIMITS.max_bytes:
            yield file
            continue
        if read is None or file.input is not source:
            source, read = file.input, read_in_order(file.input)
        assert file.start is not None
        yield replace(file, data=read(file.start, file.size or 0))


def load_images(
    files: Iterable[ImageFile],
    load: Callable[[Sequence[ImageFile]], list[LoadedImage]],
    *,
    threads: int,
    ahead: int,
) -> Generator[LoadedImage]:
    """Yield the images of `files` in their order, as `load` gives them for several files.

    Up to `ahead` images are loaded before they are asked for, and one group more for each thread.

    Raises:
        DataError: what holds the images can't be read, or has gone.
    """
    groups = map_ahead(load, _groups(with_data(files)), threads=threads, ahead=-(-ahead // GROUP) + threads)
    with closing(groups):
        for group in groups:
            yield from group


def _groups(files: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    """Yield the files in groups: what is handed to a thread at once."""
    group: list[ImageFile] = []
    for file in files:
        group.append(file)
        # What has its bytes with it goes alone: they may be many.
        if len(group) == GROUP or file.data is not None:
            yield group
            group = []
    if group:
        yield group


def map_ahead(
    function: Callable[[_T], _R],
    items: Iterable[_T],
    *,
    threads: int,
    ahead: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[_R]:
    """Yield what `function` returns for each item, in their order, up to `ahead` of them before they are asked for.

    Threads, because the codecs, the resize, SHA-256 and the network release the GIL. The bound is what keeps the memory
    from growing where the results are taken more slowly than they are made. At the end `stop` is called before what is
    under way is waited for, so that it can end that.
    """
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)


def in_background(items: Generator[_T], *, ahead: int, stop: Callable[[], None] = lambda: None) -> Generator[_T]:
    """Yield the items, up to `ahead` of them made by a thread before they are asked for, and close `items`.

    At the end `stop` is called before the item that is being made is waited for, which can take minutes.
    """
    end = object()
    made = map_ahead(lambda _: next(items, end), repeat(None), threads=1, ahead=ahead, stop=stop)
    with closing(items), closing(made):
        for item in made:
            if item is end:
                return
            yield cast("_T", item)


def decode_threads(asked: int | None) -> int:
    """Return how many threads read and decode: what was asked for, else one for each CPU."""
    return asked or cpu_limit()
