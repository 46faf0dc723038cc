"""Garbage collection: blobs that nothing names, and unfinished downloads."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from classifier.files import TEMPORARY
from registry.oci.index import REF_NAME
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
    """

    blobs: tuple[Path, ...]
    partials: tuple[Path, ...]
    orphans: frozenset[str]
    size_bytes: int


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
    index = layout.read_index()
    orphans = _orphans(layout, index)
    used = reachable(layout, _without(index, orphans))
    folder = layout.root / "blobs" / "sha256"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    blobs, partials = [], []
    for path in files:
        if re.fullmatch(r"[0-9a-f]{64}", path.name):
            if f"sha256:{path.name}" not in used and _age_s(path) > BLOB_MIN_AGE_S:
                blobs.append(path)
        elif path.name.startswith(TEMPORARY) and path.suffix == ".part" and _age_s(path) > PARTIAL_MIN_AGE_S:
            partials.append(path)
    size = sum(path.stat().st_size for path in (*blobs, *partials))
    return Garbage(blobs=tuple(blobs), partials=tuple(partials), orphans=frozenset(orphans), size_bytes=size)


def collect(layout: Layout) -> Garbage:
    """Delete the garbage and return it. Pulls may run meanwhile: at their end they fetch missing blobs again.

    Raises:
        DamagedArtifact: as in `find_garbage`; nothing was deleted.
        RegistryUnwritable: the registry can't be written.
    """
    with layout.writing():
        garbage = find_garbage(layout)
        if garbage.orphans:
            # The index first: a kill in between leaves too many blobs, never too few.
            layout.write_index(_without(layout.read_index(), garbage.orphans))
        for path in (*garbage.blobs, *garbage.partials):
            path.unlink(missing_ok=True)
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


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
