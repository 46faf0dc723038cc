"""Read and decode: a few threads, ahead of the inference, in order, and never further ahead than they should be."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from classifier.engines.hardware import cpu_limit
from classifier.errors import ImageError
from classifier.images import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from batch.plan import ImageFile
    from classifier.images import DecodedImage

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
        data = read_image(file.path)
    except ImageError as error:
        return LoadedImage(file=file, bytes=None, sha256=None, image=error)
    image: DecodedImage | ImageError
    try:
        image = decode(data)
    except ImageError as error:
        image = error
    return LoadedImage(file=file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), image=image)


def load_images(
    files: Iterable[ImageFile], decode: Callable[[bytes], DecodedImage], *, threads: int, ahead: int
) -> Generator[LoadedImage]:
    """Yield the images of `files` in their order, up to `ahead` of them loaded before they are asked for."""
    return map_ahead(partial(load_image, decode=decode), files, threads=threads, ahead=ahead)


def map_ahead(function: Callable[[_T], _R], items: Iterable[_T], *, threads: int, ahead: int) -> Generator[_R]:
    """Yield what `function` returns for each item, in their order, up to `ahead` of them before they are asked for.

    Threads, because the codecs, the resize, SHA-256 and the network release the GIL. The bound is what keeps the memory
    from growing where the results are taken more slowly than they are made.
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
        pool.shutdown(cancel_futures=True)


def decode_threads(asked: int | None) -> int:
    """Return how many threads read and decode: what was asked for, else one for each CPU."""
    return asked or cpu_limit()
