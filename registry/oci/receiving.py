"""A blob on its way in: a file beside the blobs that one process at a time fills, named as a blob once it is whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.errors import RegistryUnwritable
from classifier.files import sync_folder
from registry.remote.transient import DamagedInTransit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from registry.oci.manifest import Descriptor

_LOCK_POLL_S = 0.05
_PIECE_BYTES = 1 << 20
_PIECES_AHEAD = 4

_log = logging.getLogger(__name__)


class _Hash:
    """A SHA-256 that is computed beside the transfer: hashing takes as long as receiving does."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES_AHEAD)
        self._thread: threading.Thread | None = None

    def update(self, piece: bytes) -> None:
        """Add bytes, which are hashed later."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Return the digest of all that was added."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None
        return self._sha256.hexdigest()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._sha256.update(piece)


class PartialBlob:
    """The beginning of `blob`, in a file that this process has locked."""

    def __init__(self, path: Path, file: BinaryIO, blob: Descriptor) -> None:
        self._path = path
        self._file = file
        self._blob = blob
        self._hash = _Hash()
        # An earlier process's beginning: its bytes count only once they were hashed here.
        while piece := file.read(_PIECE_BYTES):
            self._hash.update(piece)
        self.size = file.tell()

    def write(self, piece: bytes) -> None:
        """Add bytes.

        Raises:
            DamagedInTransit: that is more than the blob has; all is thrown away.
        """
        if self.size + len(piece) > self._blob.size:
            self.restart()
            raise DamagedInTransit(
                f"more than the {self._blob.size} bytes of {self._blob.digest} came: check what stands before the "
                "registry, or try again later"
            )
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        """Throw away what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._hash.hexdigest()
        self._hash = _Hash()
        self.size = 0

    def check(self) -> None:
        """Compare size and digest with the descriptor's.

        Raises:
            DamagedInTransit: they differ; all is thrown away.
        """
        digest = f"sha256:{self._hash.hexdigest()}"
        if self.size != self._blob.size or digest != self._blob.digest:
            self.restart()
            raise DamagedInTransit(
                f"what came as {self._blob.digest} was {digest}: check what stands before the registry, or push the "
                "model again"
            )

    def publish(self, path: Path) -> None:
        """Give the file, checked once more, its name among the blobs."""
        self.check()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(path)
        sync_folder(path.parent)

    def close(self) -> None:
        """End the hashing; what was received stays."""
        self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


@contextmanager
def lock_partial(path: Path, blob: Descriptor, patience_s: float) -> Iterator[PartialBlob]:
    """Give the beginning of `blob` that `path` holds, once no other process is at it.

    Raises:
        RegistryUnwritable: another process is, and for `patience_s` nothing came.
    """
    with _lock(path, patience_s) as file:
        partial = PartialBlob(path, file, blob)
        try:
            yield partial
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                # Kept, it would be what fills the disk.
                partial.discard()
            raise
        finally:
            partial.close()


def _lock(path: Path, patience_s: float) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            _wait_for(file, path, patience_s)
            # While we waited it may have got its name, or been removed: then this is the lock of no file any more.
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _wait_for(file: BinaryIO, path: Path, patience_s: float) -> None:
    size, give_up_at = -1, time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            grown, now = os.fstat(file.fileno()).st_size, time.monotonic()
            if grown != size:
                if size < 0:
                    _log.info("waiting for another process that receives %s", path.name)
                size, give_up_at = grown, now + patience_s
            elif now > give_up_at:
                raise RegistryUnwritable(
                    f"another process holds {path} and received nothing for {patience_s:.0f} s: end it, and try again"
                ) from None
            time.sleep(_LOCK_POLL_S)
        else:
            return
