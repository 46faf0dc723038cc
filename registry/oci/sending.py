"""A blob on its way out: a file that is hashed while it is read, so that a damaged one never arrives whole."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedReader, FileIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from classifier.errors import DamagedArtifact
    from classifier.progress import Advance
    from registry.oci.manifest import Descriptor

_PIECE_BYTES = 1 << 20


def open_checked(
    path: Path, blob: Descriptor, advance: Advance, damaged: Callable[[str], DamagedArtifact]
) -> BufferedReader:
    """Return the file at `path`, whose last piece is given only where the whole is what `blob` says.

    Args:
        path: of the blob.
        blob: size and digest that it must have.
        advance: is told how many bytes were read.
        damaged: makes the error that reading raises where it isn't.
    """
    return BufferedReader(_CheckedFile(path, blob, advance, damaged), _PIECE_BYTES)


class _CheckedFile(FileIO):
    def __init__(
        self, path: Path, blob: Descriptor, advance: Advance, damaged: Callable[[str], DamagedArtifact]
    ) -> None:
        # One piece is hashed while it is being sent: in turn, a fast registry would wait for half of the time.
        self._hasher = ThreadPoolExecutor(1)
        self._hashing: Future[None] | None = None
        try:
            super().__init__(path)
        except OSError as error:
            raise damaged(f"{path} can't be read ({error.strerror})") from error
        self._blob = blob
        self._advance = advance
        self._damaged = damaged
        self._hash = hashlib.sha256()
        self._read_bytes = 0

    def close(self) -> None:
        """Close the file, and end what hashes it."""
        self._hasher.shutdown()
        super().close()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # any writable buffer would do
        """Read, hash what was read, and compare at the end."""
        count = super().readinto(buffer) or 0
        self._wait()
        self._hashing = self._hasher.submit(self._hash.update, bytes(memoryview(buffer)[:count]))
        self._read_bytes += count
        self._advance(count)
        if count == 0 or self._read_bytes >= self._blob.size:
            self._wait()
            if (self._read_bytes, f"sha256:{self._hash.hexdigest()}") != (self._blob.size, self._blob.digest):
                raise self._damaged(f"the contents of {self.name} are not what its digest says")
        return count

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
