"""Referrers: small artifacts that belong to a model, such as its signatures, a parity report or an SBOM.

Formats: OCI image specification 1.1, `subject` and "Guidelines for Artifact Usage". In a layout a referrer is an entry
of the index without a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from classifier.errors import DamagedArtifact
from classifier.types import to_json
from registry.oci.index import REF_NAME
from registry.oci.manifest import MANIFEST_TYPE, TITLE, Descriptor, Manifest, describe

if TYPE_CHECKING:
    from registry.oci.layout import Layout

MAX_FILE_BYTES = 4 << 20
"""What every registry and reader takes at once."""

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def pack_referrer(
    subject: Descriptor, *, artifact_type: str, title: str, data: bytes
) -> tuple[Descriptor, dict[str, bytes]]:
    """Return the descriptor of a referrer of `subject` with one file, and its blobs by digest."""
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=artifact_type,
        config=describe(_EMPTY, _EMPTY_TYPE),
        layers=(describe(data, artifact_type, annotations={TITLE: title}),),
        subject=Descriptor(media_type=MANIFEST_TYPE, digest=subject.digest, size=subject.size),
    )
    content = to_json(manifest)
    descriptor = describe(content, MANIFEST_TYPE, artifact_type=artifact_type)
    blobs = {manifest.config.digest: _EMPTY, manifest.layers[0].digest: data, descriptor.digest: content}
    return descriptor, blobs


def referrers_of(digest: str, layout: Layout) -> dict[str, Manifest]:
    """Return the manifests of all referrers of the model `digest` in `layout`, by their own digests."""
    found = {}
    for entry in layout.read_index().manifests:
        if entry.media_type == MANIFEST_TYPE and REF_NAME not in entry.annotations:
            try:
                manifest = layout.read_json(entry, Manifest)
            except DamagedArtifact:
                continue  # What belongs to a model can be fetched again, and is no reason not to use it.
            if manifest.subject is not None and manifest.subject.digest == digest:
                found[entry.digest] = manifest
    return found


def add_referrers(entries: dict[str, Descriptor], layout: Layout) -> None:
    """Name referrers, whose blobs are there, in the index; the layout is locked by the caller."""
    index = layout.read_index()
    known = {entry.digest for entry in index.manifests if REF_NAME not in entry.annotations}
    new = tuple(entry for digest, entry in entries.items() if digest not in known)
    if new:
        layout.write_index(replace(index, manifests=(*index.manifests, *new)))


def entry_of(digest: str, manifest: Manifest, size: int) -> Descriptor:
    """Return the entry of a referrer for an index."""
    return Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=size, artifact_type=manifest.kind)
