"""An OCI image layout on disk: blobs by their digest, and the index that names them.

    oci-layout            says that this folder is one
    index.json            a descriptor per tag; replaced as a whole, by rename
    blobs/sha256/<hex>    manifests, configs and files
    .tandem.lock          held by whoever writes

Readers never lock: a blob never changes, and an index appears whole. A blob is on disk before an index names it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from classifier.errors import DamagedArtifact, RegistryError, RegistryUnwritable
from classifier.files import TEMPORARY, replace_file
from classifier.types import from_json, to_json
from registry.oci.manifest import INDEX_TYPE, Descriptor, Index
from registry.oci.receiving import lock_partial
from registry.oci.references import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from registry.oci.receiving import PartialBlob

LOCK_TIMEOUT_S = 120.0
_LOCK_POLL_S = 0.05
_TEMPORARY_MAX_AGE_S = 3600.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """The OCI image layout in the folder `root`, which the first write makes."""

    root: Path

    @property
    def _index_path(self) -> Path:
        return self.root / "index.json"

    def blob_path(self, digest: str) -> Path:
        """Return where the blob of `digest` is or would be.

        Raises:
            DamagedArtifact: `digest` is none; it came out of a file and must not become a path.
        """
        if not is_digest(digest):
            raise DamagedArtifact(f"the registry {self.root} names a blob '{digest}', which is no sha256 digest")
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_index(self) -> Index:
        """Return the index; an empty one where there is no registry yet.

        Raises:
            DamagedArtifact: the index is malformed, or missing from a layout.
        """
        try:
            data = self._index_path.read_bytes()
        except FileNotFoundError as error:
            # A writer makes the index first and `oci-layout` last.
            if (self.root / "oci-layout").exists():
                raise DamagedArtifact(f"{self._index_path} is missing: {_RESTORE}") from error
            return Index(schema_version=2, media_type=INDEX_TYPE)
        except OSError as error:
            raise _unreadable(self._index_path, error) from error
        try:
            return from_json(data, Index)
        except ValueError as error:
            raise DamagedArtifact(f"{self._index_path} is damaged ({error}): {_RESTORE}") from error

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the blob's contents, after size and digest were checked.

        Raises:
            DamagedArtifact: it is missing, or not what the descriptor says.
        """
        path = self.blob_path(descriptor.digest)
        try:
            # The size first: a file that grew to gigabytes is not read.
            size = path.stat().st_size
            data = path.read_bytes() if size == descriptor.size else b""
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{path} is missing") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        _compare(path, descriptor, size=size, hexdigest=hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, descriptor: Descriptor, type: type[_T]) -> _T:
        """Return the `type` that the blob's JSON describes.

        Raises:
            DamagedArtifact: it is missing, not what the descriptor says, or no such JSON.
        """
        try:
            return from_json(self.read_blob(descriptor), type)
        except ValueError as error:
            raise DamagedArtifact(f"{self.blob_path(descriptor.digest)} can't be read: {error}") from error

    def check_blob(self, descriptor: Descriptor) -> None:
        """Read the blob piece by piece, at any size, and compare it with its descriptor.

        Raises:
            DamagedArtifact: it is missing, or not what the descriptor says.
        """
        path = self.blob_path(descriptor.digest)
        try:
            with path.open("rb") as file:
                hexdigest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{path} is missing") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        _compare(path, descriptor, size=size, hexdigest=hexdigest)

    @contextmanager
    def writing(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the layout for writing; other writers wait, readers go on.

        Raises:
            RegistryUnwritable: the folder can't be written, or another writer kept it for longer than `timeout_s`.
        """
        with self._explaining_errors():
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root / ".tandem.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._wait_for(lock, timeout_s)
                self._remove_leftovers()
                self._initialise()
                yield
            finally:
                # Closing gives the lock back, as does the end of the process, however it ends.
                os.close(lock)

    @contextmanager
    def receiving(self, blob: Descriptor, patience_s: float = LOCK_TIMEOUT_S) -> Iterator[PartialBlob | None]:
        """Give the one place where `blob` is being received; None where it is there by now.

        Other processes that want the same blob wait meanwhile. What was received stays for the next one to go on with.

        Raises:
            RegistryUnwritable: the folder can't be written, or who receives it got nothing for `patience_s`.
        """
        path = self.blob_path(blob.digest)
        with self._explaining_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock_partial(path.with_name(f"{TEMPORARY}{path.name}.part"), blob, patience_s) as partial:
                if self.has_blob(blob):
                    partial.discard()
                    yield None
                else:
                    yield partial
                    partial.publish(path)

    def has_blob(self, blob: Descriptor) -> bool:
        """Return whether the blob is there, by its size: what it holds is checked when it is written, and when read."""
        try:
            return self.blob_path(blob.digest).stat().st_size == blob.size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(self.blob_path(blob.digest), error) from error

    def write_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store `blobs` by their digests; one that is there is kept, one that is damaged is replaced."""
        for digest, data in blobs.items():
            try:
                self.check_blob(Descriptor(media_type="", digest=digest, size=len(data)))
            except DamagedArtifact:
                replace_file(self.blob_path(digest), data)

    def write_index(self, index: Index) -> None:
        """Replace the index as a whole."""
        replace_file(self._index_path, to_json(index))

    def remove_blob(self, digest: str) -> None:
        """Delete a blob, if it is there."""
        with self._explaining_errors():
            self.blob_path(digest).unlink(missing_ok=True)

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check its permissions"
            raise RegistryUnwritable(
                f"the registry {self.root} can't be written ({error.strerror or error}): {remedy}, or set TANDEM_HOME "
                "to another folder"
            ) from error

    def _wait_for(self, lock: int, timeout_s: float) -> None:
        give_up_at = time.monotonic() + timeout_s
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise RegistryUnwritable(
                        f"another process has been writing to the registry {self.root} for {timeout_s:.0f} s: "
                        "wait until it is done, or end it"
                    ) from None
                if not waiting:
                    _log.info("waiting for another process to finish writing to the registry %s", self.root)
                    waiting = True
                time.sleep(_LOCK_POLL_S)
            else:
                return

    def _initialise(self) -> None:
        if not (self.root / "oci-layout").exists():
            if not self._index_path.exists():
                self.write_index(Index(schema_version=2, media_type=INDEX_TYPE))
            replace_file(self.root / "oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))

    def _remove_leftovers(self) -> None:
        """Delete the temporary files of writers that were killed.

        Only old ones: on a network file system without locks, a young one may belong to another machine's writer.
        """
        for folder in (self.root, self.root / "blobs" / "sha256"):
            for path in folder.glob(f"{TEMPORARY}*.tmp"):
                if time.time() - path.stat().st_mtime > _TEMPORARY_MAX_AGE_S:
                    path.unlink(missing_ok=True)


_RESTORE = "restore it from a copy, or move the registry's folder away and export the models again"


def _unreadable(path: Path, error: OSError) -> RegistryError:
    return RegistryError(f"{path} can't be read ({error.strerror}): check its permissions")


def _compare(path: Path, descriptor: Descriptor, *, size: int, hexdigest: str) -> None:
    if size != descriptor.size:
        raise DamagedArtifact(f"{path} has {size} bytes instead of {descriptor.size}")
    if f"sha256:{hexdigest}" != descriptor.digest:
        raise DamagedArtifact(f"the contents of {path} are not what its digest says")
