"""Referrers: small artifacts attached to a model, such as a signature, a parity report or an SBOM.

Formats: OCI image specification 1.1, `subject` and "Guidelines for Artifact Usage". In a layout, a referrer is an index
entry without a name.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from classifier.errors import DamagedArtifact
from classifier.types import from_json, to_json
from registry.oci.index import REF_NAME
from registry.oci.manifest import MANIFEST_TYPE, TITLE, Descriptor, Manifest, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.oci.layout import Layout

MAX_FILE_BYTES = 4 << 20
"""Every registry and reader accepts a blob of this size in one piece."""

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
# RFC 6838, "Naming Requirements"; registries reject other types.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """A referrer with its bytes, each blob checked against its digest.

    Attributes:
        descriptor: the manifest's, with the artifact type.
        blobs: manifest, config and files by digest; only the manifest if the referrer was listed and not fetched.
    """

    descriptor: Descriptor
    manifest: Manifest
    blobs: Mapping[str, bytes]

    def with_files(self, files: Mapping[str, bytes]) -> Referrer:
        """Return the referrer with the blobs of its files, by digest."""
        return replace(self, blobs={**files, **self.blobs})


def pack_referrer(subject: Descriptor, *, artifact_type: str, title: str, data: bytes) -> Referrer:
    """Return a referrer of `subject` with one file, named `title`."""
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=artifact_type,
        config=describe(_EMPTY, _EMPTY_TYPE),
        layers=(describe(data, artifact_type, annotations={TITLE: title}),),
        subject=Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size),
    )
    return _listed(manifest, to_json(manifest)).with_files(
        {manifest.config.digest: _EMPTY, manifest.layers[0].digest: data}
    )


def parse_referrer(content: bytes, subject: str) -> Referrer | None:
    """Return the referrer whose manifest is `content`, without its files; None if it doesn't refer to `subject`."""
    try:
        manifest = from_json(content, Manifest)
    except ValueError:
        return None
    if manifest.subject is None or manifest.subject.digest != subject:
        return None
    return _listed(manifest, content)


def list_referrers(digest: str, layout: Layout) -> list[Referrer]:
    """Return the referrers of the model `digest` in `layout`: their manifests, without their files."""
    found = []
    for entry in layout.read_index().manifests:
        if entry.media_type == MANIFEST_TYPE and REF_NAME not in entry.annotations:
            try:
                found.append(parse_referrer(layout.read_blob(entry), digest))
            except DamagedArtifact:
                continue  # A referrer can be fetched again; the model is usable without it.
    return [referrer for referrer in found if referrer is not None]


def read_referrers(digest: str, layout: Layout) -> list[Referrer]:
    """Return the referrers of the model `digest` in `layout`, with their files; damaged ones are left out."""
    found = []
    for referrer in list_referrers(digest, layout):
        with suppress(DamagedArtifact):
            files = {blob.digest: layout.read_blob(blob) for blob in referrer.manifest.blobs}
            found.append(referrer.with_files(files))
    return found


def store_referrers(referrers: Iterable[Referrer], layout: Layout) -> None:
    """Write referrers into `layout` and its index."""
    referrers = list(referrers)
    if not referrers:
        return
    with layout.writing():
        for referrer in referrers:
            layout.write_blobs(referrer.blobs)
        index = layout.read_index()
        known = {entry.digest for entry in index.manifests if REF_NAME not in entry.annotations}
        added = {each.descriptor.digest: each.descriptor for each in referrers if each.descriptor.digest not in known}
        if added:
            layout.write_index(msgspec.structs.replace(index, manifests=(*index.manifests, *added.values())))


def is_media_type(text: str) -> bool:
    """Return whether `text` is a media type, such as `application/spdx+json`."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _listed(manifest: Manifest, content: bytes) -> Referrer:
    descriptor = describe(content, MANIFEST_TYPE, artifact_type=manifest.kind)
    return Referrer(descriptor=descriptor, manifest=manifest, blobs={descriptor.digest: content})
