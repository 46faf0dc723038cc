"""An OCI image layout on disk: blobs by their digest, and the index that names them.

    oci-layout            marks the folder as a layout
    index.json            a descriptor per tag; replaced as a whole, by rename
    blobs/sha256/<hex>    manifests, configs and files
    .tandem.lock          locked by the writing process
    .tandem.pulls         locked by pulls, together, as long as they have blobs that no name protects yet

Readers never lock: a blob never changes, the index is replaced as a whole, and it names only blobs that are on disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from classifier.errors import DamagedArtifact, RegistryError, RegistryUnwritable
from classifier.files import TEMPORARY, replace_file
from classifier.types import from_json, to_json
from registry.oci.locking import lock, open_own
from registry.oci.manifest import INDEX_TYPE, Descriptor, Index
from registry.oci.receiving import open_partial
from registry.oci.references import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from classifier.progress import Advance
    from registry.oci.receiving import PartialBlob

LOCK_TIMEOUT_S = 120.0
_TEMPORARY_MAX_AGE_S = 3600.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Layout:
    """The OCI image layout in the folder `root`; the first write creates it."""

    root: Path

    @property
    def _index_path(self) -> Path:
        return self.root / "index.json"

    def blob_path(self, digest: str) -> Path:
        """Return the path of the blob, present or not.

        Raises:
            DamagedArtifact: `digest` is not a digest; it was read from a file and must not become a path.
        """
        if not is_digest(digest):
            raise DamagedArtifact(f"the registry {self.root} names a blob '{digest}', which is not a sha256 digest")
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_index(self) -> Index:
        """Return the index; an empty one if there is no registry yet.

        Raises:
            DamagedArtifact: the index is malformed, or an existing layout lacks it.
        """
        try:
            data = self._index_path.read_bytes()
        except FileNotFoundError as error:
            # A writer creates the index first and `oci-layout` last.
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
        """Return the blob's contents, checked against size and digest.

        Raises:
            DamagedArtifact: the blob is missing or differs from its descriptor.
        """
        path = self.blob_path(descriptor.digest)
        try:
            # The size first, so that a file of gigabytes is never read.
            size = path.stat().st_size
            data = path.read_bytes() if size == descriptor.size else b""
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{path} is missing") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        _compare(path, descriptor, size=size, hexdigest=hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, descriptor: Descriptor, type: type[_T]) -> _T:
        """Return the blob's JSON as a `type`.

        Raises:
            DamagedArtifact: the blob is missing, differs from its descriptor, or holds other JSON.
        """
        try:
            return from_json(self.read_blob(descriptor), type)
        except ValueError as error:
            raise DamagedArtifact(f"{self.blob_path(descriptor.digest)} can't be read: {error}") from error

    def check_blob(self, descriptor: Descriptor) -> None:
        """Compare a blob of any size with its descriptor, reading it piece by piece.

        Raises:
            DamagedArtifact: the blob is missing or differs from its descriptor.
        """
        path = self.blob_path(descriptor.digest)
        hexdigest = ""
        try:
            # The size first, so that a pipe, which has none, is never opened.
            if (size := path.stat().st_size) == descriptor.size:
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
        """Lock the layout for writing; other writers wait, readers don't.

        Raises:
            RegistryUnwritable: the folder can't be written, or another writer held the lock for `timeout_s`.
        """
        with self._explaining_errors():
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            file = open_own(self.root / ".tandem.lock")
            try:
                lock(
                    file,
                    timeout_s,
                    waiting=f"waiting for another process to finish writing to the registry {self.root}",
                    too_long=f"another process has been writing to the registry {self.root} for {timeout_s:.0f} s: "
                    "wait until it is done, or end it",
                )
                self._remove_leftovers()
                self._initialise()
                yield
            finally:
                os.close(file)

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Keep blobs that nothing names yet from being collected as garbage; any number of processes may pull at once.

        Raises:
            RegistryUnwritable: the folder can't be written, or a collection takes longer than `LOCK_TIMEOUT_S`.
        """
        with self._explaining_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            file = open_own(self.pulls_path)
        try:
            lock(
                file,
                LOCK_TIMEOUT_S,
                shared=True,
                waiting=f"waiting for 'tandem models gc' to finish in the registry {self.root}",
                too_long=f"'tandem models gc' has been working in the registry {self.root} for {LOCK_TIMEOUT_S:.0f} s: "
                "wait until it is done, or end it",
            )
            yield
        finally:
            os.close(file)

    @property
    def pulls_path(self) -> Path:
        """The file that pulls lock."""
        return self.root / ".tandem.pulls"

    @contextmanager
    def receiving(
        self, blob: Descriptor, advance: Advance, patience_s: float = LOCK_TIMEOUT_S
    ) -> Iterator[PartialBlob | None]:
        """Yield the file that receives `blob`, and publish it at the end; yield None if the blob is already there.

        Other processes that need the same blob wait. If the transfer breaks, the next one continues from the bytes
        received so far.

        Args:
            blob: what is being received.
            advance: is told how many bytes are newly there.
            patience_s: how long another process may hold the file without receiving anything.

        Raises:
            RegistryUnwritable: the folder can't be written, or another process received nothing for `patience_s`.
        """
        path = self.blob_path(blob.digest)
        with self._explaining_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_name(f"{TEMPORARY}{path.name}.part")
            with open_partial(partial_path, blob, patience_s, advance) as partial:
                if self.has_blob(blob):
                    partial.discard()
                    yield None
                else:
                    advance(partial.size)
                    yield partial
                    partial.publish(path)

    def has_blob(self, blob: Descriptor) -> bool:
        """Return whether a blob of that size is there; its contents are checked at every write and read."""
        try:
            return self.blob_path(blob.digest).stat().st_size == blob.size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(self.blob_path(blob.digest), error) from error

    def write_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store `blobs` by digest; keep whole blobs that are already there, replace damaged ones."""
        for digest, data in blobs.items():
            try:
                self.check_blob(Descriptor(media_type="", digest=digest, size=len(data)))
            except DamagedArtifact:
                replace_file(self.blob_path(digest), data)

    def write_index(self, index: Index) -> None:
        """Replace the index as a whole."""
        replace_file(self._index_path, to_json(index))

    def remove_blob(self, digest: str) -> None:
        """Delete the blob if it exists."""
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

    def _initialise(self) -> None:
        if not (self.root / "oci-layout").exists():
            if not self._index_path.exists():
                self.write_index(Index(schema_version=2, media_type=INDEX_TYPE))
            replace_file(self.root / "oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))

    def _remove_leftovers(self) -> None:
        """Delete temporary files that killed writers left.

        Only old ones: on a network file system without locks, a recent one may belong to a writer on another machine.
        """
        for folder in (self.root, self.root / "blobs" / "sha256"):
            for path in folder.glob(f"{TEMPORARY}*.tmp"):
                with suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > _TEMPORARY_MAX_AGE_S:
                        path.unlink()


_RESTORE = "restore it from a copy, or move the registry's folder away and export the models again"


def _unreadable(path: Path, error: OSError) -> RegistryError:
    return RegistryError(f"{path} can't be read ({error.strerror}): check its permissions")


def _compare(path: Path, descriptor: Descriptor, *, size: int, hexdigest: str) -> None:
    if size != descriptor.size:
        raise DamagedArtifact(f"{path} has {size} bytes instead of {descriptor.size}")
    if f"sha256:{hexdigest}" != descriptor.digest:
        raise DamagedArtifact(f"the contents of {path} are not what its digest says")
