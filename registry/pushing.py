"""Push: from a local model to a remote repository."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from classifier.errors import InvalidReference, RegistryError
from registry.oci.hashing import open_checked
from registry.oci.layout import Layout
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.references import Reference, version_of
from registry.oci.referrers import read_referrers
from registry.opening import fetch_model
from registry.remote.models import RemoteModels
from registry.remote.referrers import send_referrers
from registry.transfer import transfer_blobs

if TYPE_CHECKING:
    from classifier.progress import Advance
    from registry.local import LocalRegistry
    from registry.oci.artifact import Artifact
    from registry.oci.manifest import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What `push` did.

    Attributes:
        reference: the model's name in the remote registry.
        sent: the sizes of the blobs that were sent; empty if the registry had them all.
        mounted: how many blobs the registry took from another of its repositories.
        referrers: how many signatures and other referrers the registry lacked.
    """

    reference: Reference
    digest: str
    sent: tuple[int, ...] = ()
    mounted: int = 0
    referrers: int = 0


def push(reference: str, target: str, registry: LocalRegistry) -> Pushed:
    """Push a model of `registry` to a remote repository, under the version or alias in `target`.

    If `target` has neither, the model keeps its version; without a version it gets the next free number.

    Raises:
        InvalidReference: `target` is not remote, or has a digest.
        ModelNotFound: `registry` has no such model.
        RegistryError: the version exists with another digest.
        RegistryUnreachable: the registry doesn't answer within the time limit.
    """
    destination = Reference.parse(target)
    if destination.host is None or destination.digest is not None:
        raise InvalidReference(
            f"'{target}' is not a place to push to: write the registry's host before the name, 'ghcr.io/acme/digits'"
        )
    artifact = fetch_model(reference, registry, trust=False)
    remote = RemoteModels(destination)
    tag = destination.tag or str(artifact.version or remote.free_version())
    pushed = Reference(host=destination.host, name=destination.name, tag=tag)
    there = remote.repository.find_manifest(tag)
    sent: tuple[int, ...] = ()
    mounted = 0
    if there is None or there[0].digest != artifact.digest:
        if there is not None and version_of(tag) is not None:
            raise RegistryError(
                f"'{pushed}' is {there[0].digest}, not {artifact.digest}, and versions never change: push to "
                f"'{destination.repository}:{remote.free_version()}', which is free"
            )
        sent, mounted = _send_blobs(artifact, remote, mount_from=_other_repository(artifact, destination, registry))
        manifest = artifact.layout.read_blob(artifact.descriptor)
        # The manifest last: a registry that names a model has all of it.
        remote.repository.put_manifest(tag, manifest, MANIFEST_TYPE)
    referrers = read_referrers(artifact.digest, registry.layout)
    added = send_referrers(referrers, artifact.digest, remote.repository)
    return Pushed(reference=pushed, digest=artifact.digest, sent=sent, mounted=mounted, referrers=added)


def _send_blobs(artifact: Artifact, remote: RemoteModels, *, mount_from: str | None) -> tuple[tuple[int, ...], int]:
    layout = artifact.layout
    assert isinstance(layout, Layout), "fetch_model returns a model on disk"
    sent: list[int] = []
    mounted: list[str] = []

    def send(blob: Descriptor, advance: Advance) -> None:
        if remote.repository.has_blob(blob):
            advance(blob.size)
            return
        opened = partial(open_checked, layout.blob_path(blob.digest), blob, advance, artifact.damaged)
        if remote.repository.upload(blob, opened, mount_from=mount_from):
            sent.append(blob.size)
        else:
            mounted.append(blob.digest)

    transfer_blobs(send, artifact.manifest.blobs, f"pushing {artifact.reference}")
    return tuple(sent), len(mounted)


def _other_repository(artifact: Artifact, destination: Reference, registry: LocalRegistry) -> str | None:
    """Return another repository of the destination's registry, from which this model was pulled."""
    for model in registry.models():
        name = Reference.parse(model.name)
        if model.digest == artifact.digest and name.host == destination.host and name.name != destination.name:
            return name.name
    return None
