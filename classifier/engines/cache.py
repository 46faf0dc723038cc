"""A cache of compiled models in `$TANDEM_HOME/cache/compiled`, so that each is compiled only once.

An entry is its contents, its key, the key's length, and the SHA-256 of all that: an entry under another name is not
used. It is written aside and renamed, so any number of processes may read and write. A damaged entry counts as missing
and is replaced. Compiled models are code, so the folder and its entries must belong to this user, and nobody else may
be able to write them. The cache is optional: if it can't be read or written, as in a container with a read-only home,
models are compiled each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from classifier.home import tandem_home

log = logging.getLogger(__name__)

LIMIT_BYTES = 4_000_000_000
"""Size of all entries together. The least recently used are removed first."""

_FORMAT = "2"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LENGTH_BYTES = 8
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A place in the cache, filled or not.

    Attributes:
        path: the file.
        key: everything that the contents depend on.
    """

    path: Path
    key: bytes


def find_entry(*key: str) -> Entry | None:
    """Return the entry for `key`, filled or not; None if this user has no home folder.

    The key must contain everything that the contents depend on.
    """
    try:
        folder = tandem_home() / "cache" / "compiled"
    except RuntimeError as error:
        log.debug("No cache of compiled models: %s", error)
        return None
    encoded = "\0".join((_FORMAT, *key)).encode()
    return Entry(path=folder / f"{hashlib.sha256(encoded).hexdigest()}.blob", key=encoded)


def read_entry(entry: Entry) -> memoryview | None:
    """Return the contents of `entry`; None if it is missing, damaged, another key's, or if others may write it."""
    path = entry.path
    try:
        if not _is_private(path.parent.lstat()):
            log.debug("Ignoring %s: it belongs to another user, or others may write it", path.parent)
            return None
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 # a descriptor
            if not _is_private(os.fstat(file.fileno())):
                log.debug("Ignoring %s: it belongs to another user, or others may write it", path)
                return None
            # Mapped, so that processes share the memory; copy-on-write, since OpenVINO copies memory that is read-only.
            # Safe: an entry is replaced, never changed in place.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        log.debug("No compiled model at %s: %s", path, error.strerror)
        return None
    except ValueError:  # An empty file can't be mapped.
        return None
    # The key comes last, because OpenVINO needs the contents aligned in memory.
    ending = _ending(entry.key)
    contents, digest = data[: -len(ending) - _DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if data[len(contents) : -_DIGEST_BYTES] != ending or hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != digest:
        log.debug("Ignoring %s: it is damaged, or the entry of another key", path)
        return None
    with contextlib.suppress(OSError):  # The cache may be read-only.
        os.utime(path)
    return contents


def write_entry(entry: Entry, contents: bytes) -> None:
    """Fill `entry`, and remove old entries over the limit; do nothing if the cache can't be written."""
    path = entry.path
    try:
        if not _make_private(path.parent):
            log.debug("The compiled model is not kept: %s belongs to another user", path.parent)
            return
        # Not `classifier.files.replace_file`: an entry is private to this user (mode 0600), and needs no slow fsync.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                ending = _ending(entry.key)
                digest = hashlib.sha256(contents)
                digest.update(ending)
                for part in (contents, ending, digest.digest()):
                    file.write(part)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        _prune(path.parent)
    except OSError as error:
        log.debug("The compiled model is not kept at %s: %s", path, error.strerror)


def _ending(key: bytes) -> bytes:
    return key + len(key).to_bytes(_LENGTH_BYTES, "little")


def _is_private(status: os.stat_result) -> bool:
    """Return whether a folder or file is not a link, belongs to this user, and can be written by nobody else."""
    if not hasattr(os, "geteuid"):
        return True
    is_own = status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode)
    return is_own and not status.st_mode & _OTHERS_MAY_WRITE


def _make_private(folder: Path) -> bool:
    """Make `folder`, or take from others the right to write it; return whether it is now private.

    Raises:
        OSError: it can't be made or changed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if hasattr(os, "geteuid") and status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode):
        folder.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_MAY_WRITE)
    return _is_private(folder.lstat())


def _prune(folder: Path) -> None:
    """Remove the least recently used entries until the rest is within the limit."""
    used = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda entry: entry[0].st_mtime, reverse=True)
    total = 0
    for status, file in used:
        total += status.st_size
        if total > LIMIT_BYTES:
            file.unlink(missing_ok=True)
