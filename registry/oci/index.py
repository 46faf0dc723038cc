"""The names in a layout's index: which tags stand on which digest, and which version comes next.

Functions over an `Index`, without a disk. An entry is `name:tag`, or `name` alone, in the annotation
`org.opencontainers.image.ref.name`. A copy of a remote model keeps its whole name, `ghcr.io/acme/digits:3`, or
`ghcr.io/acme/digits@sha256:…` where it was fetched by digest. Entries that other tools wrote under other names are kept
and not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from classifier.errors import InvalidReference
from registry.oci.artifact import Artifact
from registry.oci.references import Reference, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.oci.layout import Layout
    from registry.oci.manifest import Descriptor, Index

REF_NAME = "org.opencontainers.image.ref.name"
_LAST_VERSION = "tandem.last-version."
"""Annotation of the index, for a model: the highest version that was ever removed. Its number is not given again."""


def artifacts(index: Index, layout: Layout) -> dict[tuple[str, str], Artifact]:
    """Return every artifact that has a name, by name and digest; those of a name by version, lowest first."""
    tags: dict[tuple[str, str], list[str | None]] = {}
    descriptors: dict[str, Descriptor] = {}
    seen: set[str] = set()
    for reference, descriptor in _entries(index):
        # Of two entries of one name, which only another tool can have written, the first counts.
        if str(reference) not in seen:
            seen.add(str(reference))
            tags.setdefault((reference.repository, descriptor.digest), []).append(reference.tag)
            descriptors.setdefault(descriptor.digest, replace(descriptor, annotations={}))
    found = [
        Artifact(
            name=name,
            tags=tuple(sorted(tags[name, digest], key=_tag_order)),
            descriptor=descriptors[digest],
            layout=layout,
        )
        for name, digest in tags
    ]
    found.sort(key=lambda artifact: (artifact.name, _tag_order(artifact.tags[0])))
    return {(artifact.name, artifact.digest): artifact for artifact in found}


def next_version(index: Index, name: str) -> int:
    """Return the number that the next version of `name` gets: one that no version ever had."""
    versions = (reference.version or 0 for reference, _ in _entries(index) if reference.repository == name)
    return max(_last_removed(index, name), *versions, 0) + 1


def with_tag(index: Index, name: str, tag: str | None, descriptor: Descriptor) -> Index:
    """Return the index with `name:tag` on `descriptor`, and on nothing else."""
    entry = _entry_name(name, tag, descriptor.digest)
    kept = tuple(other for other in index.manifests if other.annotations.get(REF_NAME) != entry)
    added = replace(descriptor, annotations={**descriptor.annotations, REF_NAME: entry})
    return replace(index, manifests=(*kept, added))


def without_tags(index: Index, artifact: Artifact, tags: Iterable[str | None]) -> Index:
    """Return the index without these tags of `artifact`, which remembers the versions among them."""
    gone = {_entry_name(artifact.name, tag, artifact.digest) for tag in tags}
    kept = tuple(other for other in index.manifests if other.annotations.get(REF_NAME) not in gone)
    last = max(_last_removed(index, artifact.name), *(version_of(tag) or 0 for tag in tags))
    # A remote registry numbers its own versions.
    remembered = {_LAST_VERSION + artifact.name: str(last)} if last and not artifact.is_copy else {}
    return replace(index, manifests=kept, annotations={**index.annotations, **remembered})


def _entry_name(name: str, tag: str | None, digest: str) -> str:
    if tag is not None:
        return f"{name}:{tag}"
    # Two digests of one remote repository can both be here without a tag.
    return name if Reference.parse(name).host is None else f"{name}@{digest}"


def _entries(index: Index) -> list[tuple[Reference, Descriptor]]:
    entries = []
    for descriptor in index.manifests:
        try:
            reference = Reference.parse(descriptor.annotations.get(REF_NAME, ""))
        except InvalidReference:
            continue
        # A remote model that was fetched by its digest is named by it.
        if reference.digest is None or (reference.host is not None and reference.digest == descriptor.digest):
            entries.append((reference, descriptor))
    return entries


def _tag_order(tag: str | None) -> tuple[int, int, str]:
    version = version_of(tag)
    return (0, version, "") if version is not None else (1, 0, tag or "")


def _last_removed(index: Index, name: str) -> int:
    return version_of(index.annotations.get(_LAST_VERSION + name)) or 0
