"""Tar files of images, WebDataset shards among them."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

from batch.inputs.opening import Found, opening

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Generator, Iterator

    from batch.inputs.named import Input

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")


def is_compressed(input: Input) -> bool:
    """Return whether a tar file is compressed, so that its images can only be read in order."""
    return input.location.lower().endswith(_COMPRESSED)


def list_tar(input: Input, skipped: Counter[str], reason_to_skip: Callable[[str], str | None]) -> Iterator[Found]:
    """Yield the images in a tar file, in its own order: the member's name, first byte and size.

    Raises:
        DataError: it is not a tar file, or is cut short.
    """
    with opening(input) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # typeshed lacks it; tarfile keeps about 1 KB per member
            if not member.isfile() or member.issparse():
                if not member.isdir():
                    skipped["special file"] += 1
            elif reason := reason_to_skip(member.name):
                skipped[reason] += 1
            else:
                yield member.name, member.offset_data, member.size
        # tarfile takes a damaged header for the end. A sound tar file ends in blocks of zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark where its last member ends")


def read_tar(input: Input) -> Generator[bytes, tuple[int, int]]:
    """Yield the bytes at each place (first byte, size) that is sent, in ascending order, after one empty yield.

    Raises:
        DataError: the file can't be read, or is cut short.
    """
    start, size = yield b""
    with opening(input) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        assert tar.fileobj is not None
        while True:
            tar.fileobj.seek(start)
            data = tar.fileobj.read(size)
            if len(data) < size:
                raise tarfile.ReadError("unexpected end of data")
            start, size = yield data


def read_span(path: str, start: int, size: int) -> bytes:
    """Return `size` bytes of a local file from `start` on; fewer if the file has become shorter.

    Raises:
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
