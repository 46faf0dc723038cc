"""What travels with a model: its referrers, from the local layout to a remote repository and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact
from classifier.types import from_json
from registry.manifest import MANIFEST_TYPE, Manifest
from registry.referrers import add_referrers, entry_of, referrers_of
from registry.signing import SIGNATURE_TYPE, check_signature, trusted_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.artifact import Artifact
    from registry.layout import Layout
    from registry.manifest import Descriptor
    from registry.remote import RemoteRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """A referrer with all of its bytes, each checked against its digest.

    Attributes:
        descriptor: of its manifest, with its artifact type.
        blobs: manifest, config and files, by digest.
    """

    descriptor: Descriptor
    manifest: Manifest
    blobs: Mapping[str, bytes]


def read_referrers(digest: str, layout: Layout) -> list[Referrer]:
    """Return the referrers of the model `digest` in `layout`; what is damaged is left out."""
    found = []
    for own, manifest in referrers_of(digest, layout).items():
        try:
            blobs = {blob.digest: layout.read_blob(blob) for blob in (*manifest.layers, manifest.config)}
        except DamagedArtifact:
            continue
        content = layout.blob_path(own).read_bytes()
        entry = entry_of(own, manifest, len(content))
        found.append(Referrer(descriptor=entry, manifest=manifest, blobs={**blobs, own: content}))
    return found


def store_referrers(referrers: Iterable[Referrer], layout: Layout) -> None:
    """Bring referrers into `layout`."""
    referrers = list(referrers)
    if referrers:
        with layout.writing():
            for referrer in referrers:
                layout.write_blobs(referrer.blobs)
            add_referrers({referrer.descriptor.digest: referrer.descriptor for referrer in referrers}, layout)


def fetch_referrers(digest: str, repository: RemoteRepository) -> list[Referrer]:
    """Return the referrers that a remote repository has of the model `digest`."""
    found = []
    for descriptor in repository.referrers(digest):
        there = repository.find_manifest(descriptor.digest)
        if there is None or descriptor.media_type != MANIFEST_TYPE:
            continue  # Listed, and deleted since; or of a kind that isn't ours.
        content = there[1]
        try:
            manifest = from_json(content, Manifest)
        except ValueError:
            continue
        if manifest.subject is None or manifest.subject.digest != digest:
            continue
        blobs = {blob.digest: repository.read_blob(blob) for blob in (*manifest.layers, manifest.config)}
        entry = entry_of(descriptor.digest, manifest, len(content))
        found.append(Referrer(descriptor=entry, manifest=manifest, blobs={**blobs, entry.digest: content}))
    return found


def send_referrers(referrers: Iterable[Referrer], digest: str, repository: RemoteRepository) -> int:
    """Return how many of the referrers of the model `digest` the repository didn't have, and has now."""
    missing = {referrer.descriptor.digest: referrer for referrer in referrers}
    if missing:
        for there in repository.referrers(digest):
            missing.pop(there.digest, None)
    for referrer in missing.values():
        for blob in (*referrer.manifest.layers, referrer.manifest.config):
            if not repository.has_blob(blob):
                repository.upload(blob, partial(BytesIO, referrer.blobs[blob.digest]))
        repository.put_referrer(digest, referrer.descriptor, referrer.blobs[referrer.descriptor.digest])
    return len(missing)


def require_trust(artifact: Artifact, referrers: Iterable[Referrer]) -> None:
    """Do nothing where no key has to be trusted, or the one that has to be signed this model.

    Raises:
        UntrustedArtifact: it didn't.
    """
    key = trusted_key()
    if key is not None:
        manifest = artifact.layout.read_blob(artifact.descriptor)
        check_signature(artifact.reference, manifest, signatures_in(referrers), key)


def signatures_in(referrers: Iterable[Referrer]) -> list[bytes]:
    """Return the signatures among `referrers`."""
    return [
        referrer.blobs[layer.digest]
        for referrer in referrers
        if referrer.manifest.artifact_type == SIGNATURE_TYPE
        for layer in referrer.manifest.layers
    ]
