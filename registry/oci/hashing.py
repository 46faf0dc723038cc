"""SHA-256 on a thread beside the transfer: in turn, hashing and moving bytes would take twice as long."""

from __future__ import annotations

import hashlib
import queue
import threading
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from pathlib import Path

    from classifier.errors import DamagedArtifact
    from classifier.progress import Advance
    from registry.oci.manifest import Descriptor

_PIECE_BYTES = 1 << 20
_PIECES_AHEAD = 4


class BackgroundHash:
    """The SHA-256 of bytes that are added piece by piece."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES_AHEAD)
        self._thread: threading.Thread | None = None

    def update(self, piece: bytes) -> None:
        """Add bytes; the thread hashes them later."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._pieces.put(piece)

    def digest(self) -> str:
        """Return the digest, `sha256:…`, of everything added so far, and end the thread."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None
        return f"sha256:{self._sha256.hexdigest()}"

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._sha256.update(piece)


def open_checked(
    path: Path, blob: Descriptor, advance: Advance, damaged: Callable[[str], DamagedArtifact]
) -> BufferedReader:
    """Return the open file of a blob; reading its last piece fails unless the whole file matches `blob`.

    So a damaged file never arrives whole: the upload ends before its last piece.

    Args:
        path: the blob's file.
        blob: the size and digest that it must have.
        advance: is told how many bytes were read.
        damaged: makes the error that reading raises if the file differs.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise damaged(f"{path} can't be read ({error.strerror})") from error
    return BufferedReader(_CheckedFile(file, blob, advance, damaged), _PIECE_BYTES)


# Not a FileIO: that one reads to the end without `readinto`.
class _CheckedFile(RawIOBase):
    def __init__(
        self, file: FileIO, blob: Descriptor, advance: Advance, damaged: Callable[[str], DamagedArtifact]
    ) -> None:
        self._file = file
        self._blob = blob
        self._advance = advance
        self._damaged = damaged
        self._hash = BackgroundHash()
        self._read_bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file and end the thread."""
        self._hash.digest()
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # any writable buffer would do
        """Read and hash a piece; compare size and digest at the end."""
        try:
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise self._damaged(f"{self._file.name!s} can't be read ({error.strerror})") from error
        if count:
            self._hash.update(bytes(memoryview(buffer)[:count]))
        self._read_bytes += count
        self._advance(count)
        at_end = count == 0 or self._read_bytes >= self._blob.size
        if at_end and (self._read_bytes, self._hash.digest()) != (self._blob.size, self._blob.digest):
            raise self._damaged(f"the contents of {self._file.name!s} are not what its digest says")
        return count
