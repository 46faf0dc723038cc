"""The referrers of a model in a remote repository: listed, fetched and sent."""

from __future__ import annotations

import logging
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.receiving import DamagedInTransit
from registry.oci.references import is_digest
from registry.oci.referrers import MAX_FILE_BYTES, parse_referrer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.oci.referrers import Referrer
    from registry.remote.repository import RemoteRepository

_log = logging.getLogger(__name__)


def list_referrers(digest: str, repository: RemoteRepository) -> list[Referrer]:
    """Return the referrers of the model `digest` in `repository`: their manifests, without their files."""
    found = []
    for descriptor in repository.referrers(digest):
        # Skip other kinds, and digests by other algorithms.
        if descriptor.media_type != MANIFEST_TYPE or not is_digest(descriptor.digest):
            continue
        manifest = repository.find_manifest(descriptor.digest)
        # One that was deleted since it was listed is skipped, too.
        if manifest is not None and (referrer := parse_referrer(manifest[1], digest)) is not None:
            found.append(referrer)
    return found


def fetch_referrers(digest: str, repository: RemoteRepository) -> list[Referrer]:
    """Return the referrers of the model `digest` in `repository`, with their files.

    Referrers with a missing or too large file are left out: anyone may attach one, and the model is whole without it.
    """
    found = []
    for referrer in list_referrers(digest, repository):
        own, files = referrer.descriptor.digest, referrer.manifest.blobs
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
        found.append(referrer.with_files(blobs))
    return found


def send_referrers(referrers: Iterable[Referrer], digest: str, repository: RemoteRepository) -> int:
    """Send the referrers of the model `digest` that `repository` lacks; return how many those were."""
    missing = {referrer.descriptor.digest: referrer for referrer in referrers}
    if missing:
        for there in repository.referrers(digest):
            missing.pop(there.digest, None)
    for referrer in missing.values():
        for blob in referrer.manifest.blobs:
            if not repository.has_blob(blob):
                repository.upload(blob, partial(BytesIO, referrer.blobs[blob.digest]))
        repository.put_referrer(digest, referrer.descriptor, referrer.blobs[referrer.descriptor.digest])
    return len(missing)
