"""Opening a file that holds many images, local or remote, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from batch.inputs.stamps import Stamp
from batch.inputs.stores import fetching, urls
from classifier.errors import DataError
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from batch.inputs.named import Input

Found = tuple[str, int | None, int | None]
"""An image in an input: its path below the input and, if needed, its place: first byte and size, or row and 1."""

_BLOCK = 1 << 18

_MAGIC_BYTES = 6


@contextmanager
def opening(input: Input) -> Iterator[IO[bytes]]:
    """Yield the file of an input for reading.

    Raises:
        DataError: it can't be read, not to its end, or is not the file that was planned.
    """
    what = f"the {input.kind} file '{utf8_text(input.given)}'"
    try:
        if urls.is_url(input.location):
            if input.stamp is not None:
                input.require_unchanged(urls.stamp_of(input.location))
            with urls.reaching(input.location), closing(urls.open_url(input.location)) as file:
                yield file
        else:
            with open(input.location, "rb") as file:  # noqa: PTH123
                input.require_unchanged(Stamp.of_status(os.fstat(file.fileno())))
                yield file
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{what} can't be read to its end ({error}); copy or make it again") from error
    except OSError as error:
        raise DataError(f"{what} can't be read ({error.strerror or error}); copy or make it again") from error


def is_compressed(input: Input) -> bool:
    """Return whether the contents of an input's file are compressed, whatever its name says.

    Raises:
        DataError: it can't be read.
    """
    if urls.is_url(input.location):
        return _compression(fetching.first_bytes(input.location, _MAGIC_BYTES)) is not None
    with opening(input) as file:
        return _compression(file.read(_MAGIC_BYTES)) is not None


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """Return the contents of a file, decompressed if they are gzip, bzip2, xz or Zstandard. Seeking back starts anew.

    In reading, damaged contents or a missing end raise an OSError or EOFError.
    """
    begin = _compression(file.read(_MAGIC_BYTES))
    file.seek(0)
    return file if begin is None else io.BufferedReader(_Decompressed(file, begin), _BLOCK)


def _compression(head: bytes) -> Callable[[IO[bytes]], _Reader] | None:
    return next((begin for magic, begin in _COMPRESSIONS.items() if head.startswith(magic)), None)


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


class _Streams:
    """Reads bzip2 or xz streams, one after the other. Unlike Python's own reader it ignores nothing behind them."""

    def __init__(self, file: IO[bytes], begin: Callable[[], Any]) -> None:
        self._file = file
        self._begin = begin
        self._decompressor = begin()

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data.lstrip(b"\0")  # zeros fill the last block
                while not rest:
                    if not (block := self._file.read(_BLOCK)):
                        return b""
                    rest = block.lstrip(b"\0")
                self._decompressor = self._begin()
            else:
                rest = self._file.read(_BLOCK) if self._decompressor.needs_input else b""
                if self._decompressor.needs_input and not rest:
                    raise EOFError("its compressed contents end too early")
            if data := self._decompressor.decompress(rest, size):
                return bytes(data)


def _zstandard(file: IO[bytes]) -> _Reader:
    import pyarrow as pa  # noqa: PLC0415 # takes 0.2 s; brings the codec that Python has from 3.14 on

    reader: _Reader = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return reader


_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], _Reader]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": lambda file: _Streams(file, bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": lambda file: _Streams(file, lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": _zstandard,
}
"""Readers, by the first bytes of the files that they read."""


class _Decompressed(io.RawIOBase):
    """The decompressed contents of a file, which can be sought."""

    def __init__(self, file: IO[bytes], begin: Callable[[IO[bytes]], _Reader]) -> None:
        self._file = file
        self._begin = begin
        self._reader = begin(file)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._reader.read(len(view))
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(f"its compressed contents are damaged: {error}") from error
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        target = offset + (self._position if whence == os.SEEK_CUR else 0)
        if target < self._position:
            self._file.seek(0)
            self._reader = self._begin(self._file)
            self._position = 0
        scratch = bytearray(_BLOCK)
        while self._position < target:
            if not self.readinto(memoryview(scratch)[: target - self._position]):
                break
        return self._position
