"""Tar files of images, WebDataset shards among them."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections import OrderedDict
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from batch.inputs.holders.opening import Found, decompressed, is_compressed, opening
from batch.inputs.stamps import Stamp
from batch.inputs.stores import fetching, urls
from classifier.images import LIMITS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Generator, Iterator

    from batch.inputs.named import Input
    from batch.inputs.selection import Selection

_KEPT_BYTES = 16 * 2**20
"""Bytes of images kept for hard links: in a compressed tar file, going back means to begin anew."""


def list_tar(input: Input, skipped: Counter[str], selection: Selection) -> Iterator[Found]:
    """Yield the images in a tar file, in its own order: the member's name, first byte and size.

    A hard link has the place of its target.

    Raises:
        DataError: it is not a tar file, is cut short, or holds something behind its end; or its server can't send
            parts of it.
    """
    if urls.is_url(input.location) and not is_compressed(input):
        fetching.require_ranges(input.location)
    links = _HardLinks(input)
    with _opening_tar(input) as tar:
        for member in _members(tar):
            links.pass_by(member)
            if member.isdir():
                continue
            reason = selection.reason_to_skip_member(member.name, is_link=member.issym()) or _kind(member)
            place = (member.offset_data, member.size)
            if reason is None and member.islnk():
                reason, place = links.follow(member)
            if reason:
                skipped[reason] += 1
            else:
                yield member.name, *place
        _require_end(tar)


@contextmanager
def _opening_tar(input: Input) -> Iterator[tarfile.TarFile]:
    with opening(input) as file, tarfile.TarFile(fileobj=_BoundedReads(decompressed(file))) as tar:  # type: ignore[arg-type]
        yield tar


class _BoundedReads:
    """A file that is read in pieces of the largest image at most: a header in a small `.tar.gz` can be gigabytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.name, self.mode = "", "rb"
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self._read = file.read

    def read(self, size: int) -> bytes:
        if size > LIMITS.max_bytes:
            raise tarfile.ReadError(f"a header in it has {size:,} bytes")
        return self._read(size)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # typeshed lacks it; tarfile keeps about 1 KB per member
        yield member


def _kind(member: tarfile.TarInfo) -> str | None:
    """Return what a member is if it has no bytes of an image in one piece; None for a file and a hard link."""
    if member.issym():
        return "symbolic link"
    if member.issparse():
        return "sparse file"
    return None if member.isfile() or member.islnk() else "special file"


def _require_end(tar: tarfile.TarFile) -> None:
    """Check that a tar file ends behind its last member: in zeros alone."""
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    # tarfile takes a damaged header for the end.
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark where its last member ends")
    while block := file.read(1 << 16):
        if block.strip(b"\0"):
            raise tarfile.ReadError("it goes on behind its end mark, as tar files do that were joined without 'tar -A'")


class _HardLinks:
    """The places of members that hard links point to.

    They are looked up when the first link comes, so most tar files are read once, and no other member is remembered.
    """

    def __init__(self, input: Input) -> None:
        self._input = input
        self._places: dict[str, tuple[str | None, tuple[int, int]]] | None = None

    def pass_by(self, member: tarfile.TarInfo) -> None:
        """See the next member: later links may point to it."""
        if self._places is None:
            if not member.islnk():
                return
            with _opening_tar(self._input) as tar:
                targets = {posixpath.normpath(each.linkname) for each in _members(tar) if each.islnk()}
            self._places = dict.fromkeys(targets, ("hard link without its target", (0, 0)))
            with _opening_tar(self._input) as tar:
                for each in _members(tar):
                    if each.offset >= member.offset:
                        break
                    self._remember(each)
        self._remember(member)

    def _remember(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if self._places is not None and name in self._places:
            found = self.follow(member) if member.islnk() else (_kind(member), (member.offset_data, member.size))
            self._places[name] = found

    def follow(self, link: tarfile.TarInfo) -> tuple[str | None, tuple[int, int]]:
        """Return why a link is skipped, None if it isn't, and the first byte and size of its target."""
        assert self._places is not None
        return self._places[posixpath.normpath(link.linkname)]


def read_tar(input: Input) -> Generator[bytes, tuple[int, int]]:
    """Yield the bytes at each place (first byte, size) that is sent, in ascending order, after one empty yield.

    Hard links may go back.

    Raises:
        DataError: the file can't be read, or is cut short.
    """
    kept: OrderedDict[int, bytes] = OrderedDict()
    kept_bytes = 0
    start, size = yield b""
    with opening(input) as compressed:
        file = decompressed(compressed)
        while True:
            data = kept.pop(start, None)
            if data is None:
                data = _read_at(file, start, size)
                input.require_untouched()
                kept_bytes += size
            kept[start] = data
            while kept_bytes > _KEPT_BYTES:
                kept_bytes -= len(kept.popitem(last=False)[1])
            start, size = yield data


def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def read_span(input: Input, start: int, size: int) -> bytes:
    """Return `size` bytes of a local tar file from `start` on; fewer if the file is cut short.

    Raises:
        OSError: it can't be read.
        DataError: it is not the file that was planned.
    """
    descriptor = os.open(input.location, os.O_RDONLY | os.O_CLOEXEC)
    try:
        input.require_unchanged(Stamp.of_status(os.fstat(descriptor)))
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
