"""What travels with a model: its referrers, from the local layout to a remote repository and back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact
from classifier.types import from_json
from registry.oci.manifest import MANIFEST_TYPE, Manifest
from registry.oci.references import is_digest
from registry.oci.referrers import MAX_FILE_BYTES, add_referrers, entry_of, referrers_of
from registry.remote.transient import DamagedInTransit
from registry.signing import SIGNATURE_TYPE, check_signature, trusted_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.oci.artifact import Artifact
    from registry.oci.layout import Layout
    from registry.oci.manifest import Descriptor
    from registry.remote.repository import RemoteRepository

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """A referrer with its bytes, each checked against its digest.

    Attributes:
        descriptor: of its manifest, with its artifact type.
        blobs: manifest, config and files, by digest; of one that was only listed, the manifest alone.
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


def list_referrers(digest: str, repository: RemoteRepository) -> list[Referrer]:
    """Return the referrers that a remote repository has of the model `digest`: the manifests, without their files."""
    found = []
    for descriptor in repository.referrers(digest):
        # Of a kind, or by an algorithm, that isn't ours.
        if descriptor.media_type != MANIFEST_TYPE or not is_digest(descriptor.digest):
            continue
        there = repository.find_manifest(descriptor.digest)
        if there is None:
            continue  # Listed, and deleted since.
        content = there[1]
        try:
            manifest = from_json(content, Manifest)
        except ValueError:
            continue
        if manifest.subject is None or manifest.subject.digest != digest:
            continue
        entry = entry_of(descriptor.digest, manifest, len(content))
        found.append(Referrer(descriptor=entry, manifest=manifest, blobs={entry.digest: content}))
    return found


def fetch_referrers(digest: str, repository: RemoteRepository) -> list[Referrer]:
    """Return the referrers that a remote repository has of the model `digest`, with their files.

    One that is too large to be held, or lost a file, is left out: anybody may attach one, and the model is whole
    without.
    """
    found = []
    for referrer in list_referrers(digest, repository):
        files = (*referrer.manifest.layers, referrer.manifest.config)
        own = referrer.descriptor.digest
        if not all(is_digest(file.digest) and file.size <= MAX_FILE_BYTES for file in files):
            _log.warning("%s of %s has a file over %d MiB, and stays there", own, repository, MAX_FILE_BYTES >> 20)
            continue
        try:
            blobs = {file.digest: repository.read_blob(file) for file in files}
        except DamagedInTransit:
            raise
        except DamagedArtifact as error:
            _log.warning("%s of %s is left out: %s", own, repository, error)
            continue
        found.append(replace(referrer, blobs={**blobs, **referrer.blobs}))
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
