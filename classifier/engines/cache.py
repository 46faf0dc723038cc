"""Compiled models on disk, so that a model that was compiled once opens at once: `$TANDEM_HOME/cache/compiled`.

An entry is its contents followed by their SHA-256. It is written aside and renamed, so that any number of
processes may read and write; what is damaged counts as missing, and is written anew. Nothing depends on the cache:
where it can't be read or written, as in a container with a read-only home, a model is compiled each time.
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
"""Of all entries together. Those that were not used for longest go first."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def entry_path(*key: str) -> Path | None:
    """Return where the entry of `key` is or would be; None where this user has no home for a cache.

    The key holds all on which the contents depend.
    """
    try:
        folder = tandem_home() / "cache" / "compiled"
    except RuntimeError as error:
        log.debug("No cache of compiled models: %s", error)
        return None
    digest = hashlib.sha256("\0".join(key).encode())
    return folder / f"{digest.hexdigest()}.blob"


def read_entry(path: Path) -> memoryview | None:
    """Return the contents of the entry at `path`; None where it is missing, damaged or another user's.

    What another user wrote into a shared home is not run: a model's files are checked by their digests, and an entry
    would bypass that.
    """
    try:
        with path.open("rb") as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                log.debug("%s belongs to another user, and is not used", path)
                return None
            # Mapped, so that it is not copied, and processes share it; such that it could be written, since OpenVINO
            # copies what could not be. What is in an entry does not change: another takes its place.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        log.debug("No compiled model at %s: %s", path, error.strerror)
        return None
    except ValueError:  # how an empty file says that it can't be mapped
        return None
    contents, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(contents).digest() != digest:
        log.debug("%s is damaged, and is not used", path)
        return None
    with contextlib.suppress(OSError):  # a cache that can only be read serves as well
        os.utime(path)
    return contents


def write_entry(path: Path, contents: bytes) -> None:
    """Write the entry at `path`, and remove old ones that are too many; where that can't be done, do nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """Remove the entries that were not used for longest, until the rest is within the limit."""
    used = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda entry: entry[0].st_mtime, reverse=True)
    total = 0
    for stat, file in used:
        total += stat.st_size
        if total > LIMIT_BYTES:
            file.unlink(missing_ok=True)
