"""A cache of compiled models in `$TANDEM_HOME/cache/compiled`, so that each is compiled only once.

An entry is its contents followed by their SHA-256. It is written aside and renamed, so any number of processes may
read and write. A damaged entry counts as missing and is replaced. The cache is optional: if it can't be read or
written, as in a container with a read-only home, models are compiled each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import tempfile
from pathlib import Path

from classifier.home import tandem_home

log = logging.getLogger(__name__)

LIMIT_BYTES = 4_000_000_000
"""Size of all entries together. The least recently used are removed first."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def entry_path(*key: str) -> Path | None:
    """Return the path of the entry for `key`, present or not; None if this user has no home folder.

    The key must contain everything that the contents depend on.
    """
    try:
        folder = tandem_home() / "cache" / "compiled"
    except RuntimeError as error:
        log.debug("No cache of compiled models: %s", error)
        return None
    digest = hashlib.sha256("\0".join(key).encode())
    return folder / f"{digest.hexdigest()}.blob"


def read_entry(path: Path) -> memoryview | None:
    """Return the contents of the entry at `path`; None if it is missing, damaged or owned by another user.

    Another user's entry in a shared home is never run: it would bypass the check of the model's digest.
    """
    try:
        with path.open("rb") as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                log.debug("Ignoring %s: it belongs to another user", path)
                return None
            # Mapped, so that processes share the memory; copy-on-write, since OpenVINO copies memory that is read-only.
            # Safe: an entry is replaced, never changed in place.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        log.debug("No compiled model at %s: %s", path, error.strerror)
        return None
    except ValueError:  # An empty file can't be mapped.
        return None
    contents, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(contents).digest() != digest:
        log.debug("Ignoring %s: it is damaged", path)
        return None
    with contextlib.suppress(OSError):  # The cache may be read-only.
        os.utime(path)
    return contents


def write_entry(path: Path, contents: bytes) -> None:
    """Write the entry at `path` and remove old entries over the limit; do nothing if the cache can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `classifier.files.replace_file`: an entry is private to this user (mode 0600), and needs no slow fsync.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                file.write(contents)
                file.write(hashlib.sha256(contents).digest())
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        _prune(path.parent)
    except OSError as error:
        log.debug("The compiled model is not kept at %s: %s", path, error.strerror)


def _prune(folder: Path) -> None:
    """Remove the least recently used entries until the rest is within the limit."""
    used = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda entry: entry[0].st_mtime, reverse=True)
    total = 0
    for stat, file in used:
        total += stat.st_size
        if total > LIMIT_BYTES:
            file.unlink(missing_ok=True)
