"""Pull: from a remote model to its copy in the local registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact, RegistryError, RegistryUnwritable
from registry.oci.referrers import store_referrers
from registry.remote.models import RemoteModels
from registry.remote.referrers import fetch_referrers
from registry.signing import require_trust, trusted_key
from registry.transfer import transfer_blobs

if TYPE_CHECKING:
    from classifier.progress import Advance
    from registry.local import LocalRegistry
    from registry.oci.artifact import Artifact
    from registry.oci.layout import Layout
    from registry.oci.manifest import Descriptor
    from registry.oci.references import Reference

_TRIES = 3
"""How often to fetch blobs that another program removes before they are named; `models gc` waits."""


def pull(reference: Reference, registry: LocalRegistry, *, check: bool = True) -> Artifact:
    """Return the copy in `registry` of the remote model that `reference` names; fetch only missing files.

    Args:
        reference: a remote one.
        registry: keeps the copy.
        check: read the files that are already there, and fetch damaged ones again.

    Raises:
        ModelNotFound: the remote registry has no such model.
        UntrustedArtifact: the trusted key didn't sign the model; none of its files was fetched.
        DamagedArtifact: a file doesn't match its digest.
        RegistryError: the version is already here with another digest.
        RegistryUnreachable: the registry doesn't answer within the time limit.
        RegistryUnwritable: the disk is full, or the folder is read-only.
    """
    reference.check_local()
    remote = RemoteModels(reference)
    artifact = remote.resolve(reference)
    _check_unchanged(artifact, registry)
    blobs = artifact.manifest.blobs
    # If only a tag was looked up again, the referrers came with the first pull.
    known = not check and trusted_key() is None and all(map(registry.layout.has_blob, blobs))
    referrers = [] if known else fetch_referrers(artifact.digest, remote.repository)
    require_trust(artifact, referrers)
    artifact.check_sizes()

    def receive(blob: Descriptor, advance: Advance) -> None:
        with registry.layout.receiving(blob, advance) as partial:
            if partial is not None:
                remote.repository.download(blob, partial)

    with registry.layout.pulling():
        for _ in range(_TRIES):
            missing = [blob for blob in blobs if not _is_here(blob, registry.layout, check=check)]
            transfer_blobs(receive, missing, f"pulling {artifact.reference}")
            copy = registry.adopt(artifact)
            if copy is not None:
                store_referrers(referrers, registry.layout)
                return copy
    raise RegistryUnwritable(
        f"files of '{reference}' disappear from {registry.root} as they arrive: end what removes them, and pull again"
    )


def _check_unchanged(artifact: Artifact, registry: LocalRegistry) -> None:
    version = artifact.version
    for model in registry.models():
        same_version = model.name == artifact.name and version is not None and str(version) in model.tags
        if same_version and model.digest != artifact.digest:
            raise RegistryError(
                f"'{artifact.reference}' is {artifact.digest} in its registry, but {model.digest} was pulled under "
                f"that name, and versions never change: ask who pushed it, or remove the copy with 'tandem models rm "
                f"{artifact.reference}'"
            )


def _is_here(blob: Descriptor, layout: Layout, *, check: bool) -> bool:
    if not layout.has_blob(blob):
        return False
    if check:
        try:
            layout.check_blob(blob)
        except DamagedArtifact:
            layout.remove_blob(blob.digest)
            return False
    return True
