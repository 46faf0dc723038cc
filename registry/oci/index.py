"""The names in a layout's index: which tags point to which digest, and which version comes next.

Pure functions over an `Index`. Each entry has its name, `name:tag` or `name` alone, in the annotation
`org.opencontainers.image.ref.name`. A copy of a remote model keeps its whole name, `ghcr.io/acme/digits:3`, or
`ghcr.io/acme/digits@sha256:…` if it was pulled by digest. Entries that other tools wrote under other names are kept
and ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from classifier.errors import InvalidReference
from registry.oci.artifact import Artifact
from registry.oci.references import Reference, tag_order, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.oci.layout import Layout
    from registry.oci.manifest import Descriptor, Index

REF_NAME = "org.opencontainers.image.ref.name"
_LAST_VERSION = "tandem.last-version."
"""With a model's name: an index annotation that holds the highest version ever removed, which is never reused."""


def artifacts(index: Index, layout: Layout) -> dict[tuple[str, str], Artifact]:
    """Return every named artifact by name and digest, sorted by name and version."""
    tags: dict[tuple[str, str], list[str | None]] = {}
    descriptors: dict[str, Descriptor] = {}
    seen: set[str] = set()
    for reference, descriptor in _entries(index):
        # Only another tool can write one name twice; the first entry counts.
        if str(reference) not in seen:
            seen.add(str(reference))
            tags.setdefault((reference.repository, descriptor.digest), []).append(reference.tag)
            descriptors.setdefault(descriptor.digest, replace(descriptor, annotations={}))
    found = [
        Artifact(
            name=name,
            tags=tuple(sorted(tags[name, digest], key=tag_order)),
            descriptor=descriptors[digest],
            layout=layout,
        )
        for name, digest in tags
    ]
    found.sort(key=lambda artifact: (artifact.name, tag_order(artifact.tags[0])))
    return {(artifact.name, artifact.digest): artifact for artifact in found}


def next_version(index: Index, name: str) -> int:
    """Return the number of the next version of `name`: one that no version ever had."""
    versions = (reference.version or 0 for reference, _ in _entries(index) if reference.repository == name)
    return max(_last_removed(index, name), *versions, 0) + 1


def with_tag(index: Index, name: str, tag: str | None, descriptor: Descriptor) -> Index:
    """Return the index with `name:tag` pointing to `descriptor`, and to nothing else."""
    entry = _entry_name(name, tag, descriptor.digest)
    kept = tuple(other for other in index.manifests if other.annotations.get(REF_NAME) != entry)
    added = replace(descriptor, annotations={**descriptor.annotations, REF_NAME: entry})
    return replace(index, manifests=(*kept, added))


def without_tags(index: Index, artifact: Artifact, tags: Iterable[str | None]) -> Index:
    """Return the index without these tags of `artifact`; it remembers the highest version removed."""
    gone = {_entry_name(artifact.name, tag, artifact.digest) for tag in tags}
    kept = tuple(other for other in index.manifests if other.annotations.get(REF_NAME) not in gone)
    last = max(_last_removed(index, artifact.name), *(version_of(tag) or 0 for tag in tags))
    # A remote registry numbers its own versions.
    remembered = {_LAST_VERSION + artifact.name: str(last)} if last and not artifact.is_copy else {}
    return replace(index, manifests=kept, annotations={**index.annotations, **remembered})


def _entry_name(name: str, tag: str | None, digest: str) -> str:
    if tag is not None:
        return f"{name}:{tag}"
    # Two digests of one remote repository can both be present without a tag.
    return name if Reference.parse(name).host is None else f"{name}@{digest}"


def _entries(index: Index) -> list[tuple[Reference, Descriptor]]:
    entries = []
    for descriptor in index.manifests:
        try:
            reference = Reference.parse(descriptor.annotations.get(REF_NAME, ""))
        except InvalidReference:
            continue
        # A remote model that was pulled by digest has that digest in its name.
        if reference.digest is None or (reference.host is not None and reference.digest == descriptor.digest):
            entries.append((reference, descriptor))
    return entries


def _last_removed(index: Index, name: str) -> int:
    return version_of(index.annotations.get(_LAST_VERSION + name)) or 0
