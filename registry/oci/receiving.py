"""A blob on its way in: one process at a time fills a file beside the blobs, and renames it once it is whole."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact
from classifier.files import sync_folder
from registry.oci.hashing import BackgroundHash
from registry.oci.locking import lock, open_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from classifier.progress import Advance
    from registry.oci.manifest import Descriptor

_PIECE_BYTES = 1 << 20


class DamagedInTransit(DamagedArtifact):
    """What arrived doesn't match its digest; the source may be whole, so another try can help."""


class PartialBlob:
    """The beginning of `blob`, in a file that this process has locked.

    Attributes:
        size: how many bytes are there.
    """

    def __init__(self, path: Path, file: BinaryIO, blob: Descriptor, advance: Advance) -> None:
        self._path = path
        self._file = file
        self._blob = blob
        self._advance = advance
        self._hash = BackgroundHash()
        # An earlier process's beginning counts only after it is hashed here.
        while piece := file.read(_PIECE_BYTES):
            self._hash.update(piece)
        self.size = file.tell()

    def write(self, piece: bytes) -> None:
        """Add bytes.

        Raises:
            DamagedInTransit: the blob has fewer bytes; everything received is discarded.
        """
        self._advance(len(piece))
        if self.size + len(piece) > self._blob.size:
            self.restart()
            raise DamagedInTransit(
                f"more than the {self._blob.size} bytes of {self._blob.digest} arrived: check any proxy before the "
                "registry, or try again later"
            )
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        """Discard everything received."""
        self._file.seek(0)
        self._file.truncate()
        self.end()
        self._hash = BackgroundHash()
        self.size = 0

    def check(self) -> None:
        """Compare size and digest with the descriptor's.

        Raises:
            DamagedInTransit: they differ; everything received is discarded.
        """
        digest = self._hash.digest()
        if self.size != self._blob.size or digest != self._blob.digest:
            self.restart()
            raise DamagedInTransit(
                f"blob {self._blob.digest} arrived as {digest}: check any proxy before the registry, or push the "
                "model again"
            )

    def publish(self, path: Path) -> None:
        """Check the file once more and rename it to `path`, among the blobs."""
        self.check()
        self._file.flush()
        # If an earlier process received all of it, `models gc` must not take the blob for an old one.
        os.utime(self._file.fileno())
        os.fsync(self._file.fileno())
        self._path.replace(path)
        sync_folder(path.parent)

    def end(self) -> None:
        """End the hashing thread; keep what was received."""
        self._hash.digest()

    def discard(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


@contextmanager
def open_partial(path: Path, blob: Descriptor, patience_s: float, advance: Advance) -> Iterator[PartialBlob]:
    """Lock the file `path` and yield the beginning of `blob` that it holds.

    Args:
        path: the file; created if it is missing.
        blob: what is being received.
        patience_s: how long another process may hold the file without receiving anything.
        advance: is told how many bytes were written.

    Raises:
        RegistryUnwritable: another process held the file for `patience_s` and received nothing.
    """
    with _lock(path, patience_s) as file:
        partial = PartialBlob(path, file, blob, advance)
        try:
            yield partial
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # Kept, the file itself would fill the disk.
                partial.discard()
            raise
        finally:
            partial.end()


def _lock(path: Path, patience_s: float) -> BinaryIO:
    while True:
        file = os.fdopen(open_own(path), "r+b")
        try:
            lock(
                file.fileno(),
                patience_s,
                waiting=f"waiting for another process that receives {path.name}",
                too_long=f"another process holds {path} and received nothing for {patience_s:.0f} s: end it, and try "
                "again",
                progress=lambda file=file: os.fstat(file.fileno()).st_size,  # type: ignore[misc]
            )
            # During the wait the file may have been renamed or deleted; then this lock protects nothing.
            if os.path.samestat(status := os.fstat(file.fileno()), path.lstat()):
                if status.st_uid == os.geteuid() and status.st_nlink == 1:
                    return file
                # Another user, or under another name, could change it after it was checked: this download starts anew.
                path.unlink()
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
