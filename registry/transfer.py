"""Models on their way: pushed to a remote registry, and pulled from one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact, InvalidReference, RegistryError, RegistryUnwritable
from classifier.progress import show_progress
from registry.companions import fetch_referrers, read_referrers, require_trust, send_referrers, store_referrers
from registry.fetching import fetch_model
from registry.oci.layout import Layout
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.references import Reference, version_of
from registry.oci.sending import open_checked
from registry.remote.connection import CONNECTIONS
from registry.remote.models import RemoteModels
from registry.signing import trusted_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier.progress import Advance
    from registry.local import LocalRegistry
    from registry.oci.artifact import Artifact
    from registry.oci.manifest import Descriptor
    from registry.oci.receiving import PartialBlob

_ADOPTIONS = 3
"""How often blobs that were removed behind our back are fetched again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What `push` did.

    Attributes:
        reference: the name that the model now has there.
        sent: the blobs whose bytes were sent, by their size; empty where the registry had them all.
        mounted: how many the registry took over from another of its repositories.
        referrers: how many signatures and other referrers the registry didn't have.
    """

    reference: Reference
    digest: str
    sent: tuple[int, ...] = ()
    mounted: int = 0
    referrers: int = 0


def push(reference: str, target: str, registry: LocalRegistry) -> Pushed:
    """Bring a model of `registry` into a remote repository, under the version or alias that `target` names.

    Where `target` names neither, the model keeps its version; one that has none gets the next number that is free.

    Raises:
        InvalidReference: `target` is not remote, or has a digest.
        ModelNotFound: `registry` has no such model.
        RegistryError: the version is there, and is another digest.
        RegistryUnreachable: the registry doesn't answer within the time limit.
    """
    destination = Reference.parse(target)
    if destination.host is None or destination.digest is not None:
        raise InvalidReference(
            f"'{target}' is no place to push to: write the registry's host before the name, 'ghcr.io/acme/digits'"
        )
    artifact = fetch_model(reference, registry, trust=False)
    remote = RemoteModels(destination)
    tag = destination.tag or _tag_for(artifact, remote)
    pushed = Reference(host=destination.host, name=destination.name, tag=tag)
    there = remote.repository.find_manifest(tag)
    referrers = read_referrers(artifact.digest, registry.layout)
    if there is not None and there[0].digest == artifact.digest:
        added = send_referrers(referrers, artifact.digest, remote.repository)
        return Pushed(reference=pushed, digest=artifact.digest, referrers=added)
    if there is not None and version_of(tag) is not None:
        raise RegistryError(
            f"'{pushed}' is {there[0].digest}, not {artifact.digest}, and versions never change: push to "
            f"'{destination.repository}:{remote.free_version()}', which is free"
        )
    sent, mounted = _send_blobs(artifact, remote, mount_from=_neighbours(artifact, destination, registry))
    manifest = artifact.layout.read_blob(artifact.descriptor)
    # The manifest last: a registry that names a model has all of it.
    remote.repository.put_manifest(tag, manifest, MANIFEST_TYPE)
    added = send_referrers(referrers, artifact.digest, remote.repository)
    return Pushed(reference=pushed, digest=artifact.digest, sent=sent, mounted=mounted, referrers=added)


def pull(reference: Reference, registry: LocalRegistry, *, check: bool = True) -> Artifact:
    """Return the copy, in `registry`, of the remote model that `reference` names; what isn't there yet is fetched.

    Args:
        reference: a remote one.
        registry: where the copy is kept.
        check: read what is there already, and fetch again what is damaged.

    Raises:
        ModelNotFound: the remote registry has no such model.
        UntrustedArtifact: the key that this machine trusts didn't sign it; none of its files was fetched.
        DamagedArtifact: what comes is not what its digest says.
        RegistryError: a version that is here already is another digest there.
        RegistryUnreachable: the registry doesn't answer within the time limit.
        RegistryUnwritable: the disk is full, or the folder is read-only.
    """
    reference.check_local()
    remote = RemoteModels(reference)
    artifact = remote.resolve(reference)
    _check_unchanged(artifact, registry)
    manifest = artifact.manifest
    blobs = tuple({blob.digest: blob for blob in (*manifest.layers, manifest.config)}.values())
    # Where only a tag is looked up again, what belongs to the model was fetched with it.
    known = not check and trusted_key() is None and all(map(registry.layout.has_blob, blobs))
    referrers = [] if known else fetch_referrers(artifact.digest, remote.repository)
    require_trust(artifact, referrers)
    for _ in range(_ADOPTIONS):
        _receive_blobs(
            [blob for blob in blobs if not _is_here(blob, registry.layout, check=check)], artifact, remote, registry
        )
        copy = registry.adopt(
            artifact.name, artifact.tags[0], artifact.descriptor, artifact.layout.read_blob(artifact.descriptor)
        )
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
                f"'{artifact.reference}' is {artifact.digest} in its registry, and {model.digest} was fetched under "
                f"that name, but versions never change: ask who pushed it, or remove the copy with 'tandem models rm "
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


def _receive_blobs(
    blobs: Sequence[Descriptor], artifact: Artifact, remote: RemoteModels, registry: LocalRegistry
) -> None:
    def receive(blob: Descriptor, advance: Advance) -> None:
        with registry.layout.receiving(blob) as sink:
            if sink is not None:
                advance(sink.size)
                remote.repository.download(blob, _Counted(sink, advance))

    _in_parallel(receive, blobs, f"pulling {artifact.reference}")


def _send_blobs(artifact: Artifact, remote: RemoteModels, *, mount_from: str | None) -> tuple[tuple[int, ...], int]:
    layout = artifact.layout
    assert isinstance(layout, Layout), "fetch_model gives what is on disk"
    manifest = artifact.manifest
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

    blobs = {blob.digest: blob for blob in (*manifest.layers, manifest.config)}
    _in_parallel(send, list(blobs.values()), f"pushing {artifact.reference}")
    return tuple(sent), len(mounted)


def _in_parallel(work: Callable[[Descriptor, Advance], None], blobs: Sequence[Descriptor], title: str) -> None:
    """Do `work` on all blobs, several at once; the first failure stops the others, and is raised.

    The largest go first: the small ones fit beside them.
    """
    if not blobs:
        return
    stop = threading.Event()
    with show_progress(sum(blob.size for blob in blobs), title=title, unit="bytes") as show:

        def advance(size: int) -> None:
            if stop.is_set():
                raise _Stopped
            show(size)

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            order = sorted(blobs, key=lambda blob: -blob.size)
            try:
                for done in as_completed([threads.submit(work, blob, advance) for blob in order]):
                    done.result()
            except BaseException:
                stop.set()
                threads.shutdown(cancel_futures=True)
                raise


class _Stopped(Exception):
    """Another blob failed, or the user wants to end."""


class _Counted:
    """A sink that says how many bytes it got."""

    def __init__(self, sink: PartialBlob, advance: Advance) -> None:
        self._sink = sink
        self._advance = advance
        self.restart = sink.restart
        self.check = sink.check

    @property
    def size(self) -> int:
        """The bytes that are there already."""
        return self._sink.size

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        self._advance(len(piece))
        self._sink.write(piece)


def _neighbours(artifact: Artifact, destination: Reference, registry: LocalRegistry) -> str | None:
    """Return another repository of the destination's registry from which this model was fetched."""
    for model in registry.models():
        name = Reference.parse(model.name)
        if model.digest == artifact.digest and name.host == destination.host and name.name != destination.name:
            return name.name
    return None


def _tag_for(artifact: Artifact, remote: RemoteModels) -> str:
    return str(artifact.version or remote.free_version())
