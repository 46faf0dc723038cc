"""Garbage collection: blobs that nothing names, and unfinished downloads."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from classifier.files import TEMPORARY
from registry.oci.index import REF_NAME
from registry.oci.locking import lock_if_free, open_own
from registry.oci.manifest import INDEX_TYPE, MANIFEST_TYPE, Index, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from registry.oci.layout import Layout
    from registry.oci.manifest import Descriptor

BLOB_MIN_AGE_S = 3600.0
"""A younger blob may belong to a running pull, which would have to fetch it again."""
PARTIAL_MIN_AGE_S = 24 * 3600.0
"""A pull may still continue a younger partial download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What can be deleted.

    Attributes:
        blobs: the files of blobs that nothing names.
        partials: the files of abandoned downloads.
        orphans: the digests of referrers whose model is gone; they leave the index.
        size_bytes: the size of all files together.
        is_pulling: a pull is running, and nothing names its blobs yet, so all are kept.
    """

    blobs: tuple[Path, ...]
    partials: tuple[Path, ...]
    orphans: frozenset[str]
    size_bytes: int
    is_pulling: bool = False


def reachable(layout: Layout, index: Index) -> set[str]:
    """Return the digests of all blobs that `index` names, directly or through manifests of any kind.

    Raises:
        DamagedArtifact: a manifest is missing or damaged, so its blobs are unknown.
    """
    return set().union(*(_mentioned(layout, entry) for entry in index.manifests))


def find_garbage(layout: Layout) -> Garbage:
    """Return what `collect` would delete now.

    Raises:
        DamagedArtifact: a manifest is missing or damaged, so its blobs are unknown.
    """
    try:
        with lock_if_free(layout.pulls_path) as is_free:
            return _find_garbage(layout, is_pulling=not is_free)
    except FileNotFoundError:  # there was never a pull
        return _find_garbage(layout, is_pulling=False)


def _find_garbage(layout: Layout, *, is_pulling: bool) -> Garbage:
    index = layout.read_index()
    orphans = _orphans(layout, index)
    used = reachable(layout, _without(index, orphans))
    folder = layout.root / "blobs" / "sha256"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    blobs, partials, size = [], [], 0
    for path in files:
        with suppress(FileNotFoundError):  # a pull that ends renames its download, or deletes it
            status = path.lstat()
            age_s = time.time() - status.st_mtime
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                if is_pulling or f"sha256:{path.name}" in used or age_s <= BLOB_MIN_AGE_S:
                    continue
                blobs.append(path)
            elif path.name.startswith(TEMPORARY) and path.suffix == ".part":
                if age_s <= PARTIAL_MIN_AGE_S or not _is_abandoned(path):
                    continue
                partials.append(path)
            else:
                continue
            size += status.st_size
    return Garbage(
        blobs=tuple(blobs),
        partials=tuple(partials),
        orphans=frozenset(orphans),
        size_bytes=size,
        is_pulling=is_pulling,
    )


def collect(layout: Layout) -> Garbage:
    """Delete the garbage and return it. Pulls may run meanwhile; those that start now wait until this is done.

    Raises:
        DamagedArtifact: as in `find_garbage`; nothing was deleted.
        RegistryUnwritable: the registry can't be written.
    """
    with layout.writing():
        os.close(open_own(layout.pulls_path))  # so that a pull can't start unseen
        with lock_if_free(layout.pulls_path) as is_free:
            garbage = _find_garbage(layout, is_pulling=not is_free)
            if garbage.orphans:
                # The index first: a kill in between leaves too many blobs, never too few.
                layout.write_index(_without(layout.read_index(), garbage.orphans))
            for path in garbage.blobs:
                path.unlink(missing_ok=True)
            for path in garbage.partials:
                with suppress(FileNotFoundError), lock_if_free(path) as is_abandoned:
                    if is_abandoned:
                        path.unlink()
    return garbage


def _orphans(layout: Layout, index: Index) -> set[str]:
    """Return the digests of referrers whose model has lost its last name."""
    named = {entry.digest for entry in index.manifests if REF_NAME in entry.annotations}
    orphans = set()
    for entry in index.manifests:
        if entry.media_type == MANIFEST_TYPE and REF_NAME not in entry.annotations:
            subject = layout.read_json(entry, Manifest).subject
            if subject is not None and subject.digest not in named:
                orphans.add(entry.digest)
    return orphans


def _without(index: Index, orphans: set[str] | frozenset[str]) -> Index:
    kept = tuple(entry for entry in index.manifests if REF_NAME in entry.annotations or entry.digest not in orphans)
    return replace(index, manifests=kept)


def _mentioned(layout: Layout, descriptor: Descriptor) -> set[str]:
    """Return the blob's own digest and every digest in it; it may be any kind of manifest."""
    if descriptor.media_type == INDEX_TYPE:
        return {descriptor.digest} | reachable(layout, layout.read_json(descriptor, Index))
    text = layout.read_blob(descriptor).decode(errors="replace")
    return {descriptor.digest, *re.findall(r"sha256:[0-9a-f]{64}", text)}


def _is_abandoned(partial: Path) -> bool:
    with lock_if_free(partial) as is_free:
        return is_free
