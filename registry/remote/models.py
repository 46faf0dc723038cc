"""The models of a remote repository, by reference and without their weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact, ModelNotFound
from registry.oci.artifact import Artifact
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.references import PRODUCTION, check_alias, tag_of_bare_name, tag_order, version_of
from registry.remote.connection import CONNECTIONS, MAX_ANSWER_BYTES
from registry.remote.repository import RemoteRepository

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.oci.manifest import Descriptor
    from registry.oci.references import Reference


@dataclass(frozen=True, slots=True)
class RemoteBlobs:
    """The blobs of one remote artifact; implements `registry.oci.artifact.BlobStore`.

    Attributes:
        repository: the repository that has them.
        known: blobs that were already read, by digest; always the manifest, which is not among a registry's blobs.
    """

    repository: RemoteRepository
    known: Mapping[str, bytes]

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the contents of a small blob, checked against its digest.

        Raises:
            DamagedArtifact: the blob is missing, differs from its descriptor, or is too large.
        """
        if descriptor.digest in self.known:
            return self.known[descriptor.digest]
        self.check_blob(descriptor)
        return self.repository.read_blob(descriptor)

    def check_blob(self, descriptor: Descriptor) -> None:
        """Check that the blob is small enough to be read without a pull.

        Raises:
            DamagedArtifact: it is larger.
        """
        if descriptor.size > MAX_ANSWER_BYTES:
            raise DamagedArtifact(
                f"{descriptor.digest} of {self.repository} has {descriptor.size} bytes: 'tandem models pull' fetches it"
            )


class RemoteModels:
    """The models in the repository of `reference`."""

    def __init__(self, reference: Reference) -> None:
        assert reference.host is not None, "LocalRegistry resolves local references"
        self._name = reference.repository
        self.repository = RemoteRepository(reference.host, reference.name)

    def resolve(self, reference: Reference) -> Artifact:
        """Return the model that `reference` names; only its manifest was read and checked.

        Raises:
            ModelNotFound: there is no such tag or digest, or it isn't a model.
            DamagedArtifact: the manifest doesn't match its digest.
        """
        artifact = self.find(reference.digest or reference.tag or self._tag_of_bare_name())
        if artifact is None:
            raise ModelNotFound(
                f"'{reference}' is not in its registry: 'tandem models list {self._name}' shows what is"
            )
        if (kind := artifact.kind) is not None:
            raise ModelNotFound(f"'{reference}' is not a model that Tandem exported but {kind}: name one that is")
        return artifact

    def find(self, tag_or_digest: str) -> Artifact | None:
        """Return the artifact with that tag or digest, a model or not; None if there isn't one."""
        found = self.repository.find_manifest(tag_or_digest)
        if found is None:
            return None
        descriptor, manifest = found
        tag = None if ":" in tag_or_digest else tag_or_digest
        blobs = RemoteBlobs(self.repository, {descriptor.digest: manifest})
        return Artifact(name=self._name, tags=(tag,), descriptor=descriptor, layout=blobs)

    def models(self) -> list[Artifact]:
        """Return every model, by version and alias; other artifacts are left out.

        Raises:
            ModelNotFound: the repository doesn't exist, or holds no model.
        """
        tags = [tag for tag in self.repository.tags() if not tag.startswith("sha256-")]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            found = [artifact for artifact in threads.map(self.find, tags) if artifact is not None]
        models: dict[str, Artifact] = {}
        for artifact in found:
            if _is_model(artifact):
                same = models.get(artifact.digest)
                together = artifact.tags if same is None else (*same.tags, *artifact.tags)
                models[artifact.digest] = replace(artifact, tags=tuple(sorted(together, key=tag_order)))
        if not models:
            raise ModelNotFound(f"{self._name} holds no model: push one with 'tandem models push digits {self._name}'")
        return sorted(models.values(), key=lambda model: tag_order(model.tags[0]))

    def tag(self, reference: Reference, *aliases: str) -> Artifact:
        """Move `aliases` to the model that `reference` names.

        Raises:
            InvalidReference: an alias is a number, or reads as a digest.
            ModelNotFound: there is no such model.
        """
        for alias in aliases:
            check_alias(alias)
        artifact = self.resolve(reference)
        manifest = artifact.layout.read_blob(artifact.descriptor)
        for alias in aliases:
            self.repository.put_manifest(alias, manifest, MANIFEST_TYPE)
        return artifact

    def free_version(self) -> int:
        """Return the number after the highest version."""
        return max((version_of(tag) or 0 for tag in self.repository.tags()), default=0) + 1

    def _tag_of_bare_name(self) -> str:
        tag = tag_of_bare_name(self.repository.tags())
        if tag is None:
            raise ModelNotFound(
                f"'{self._name}' has neither '{PRODUCTION}' nor a version: 'tandem models list {self._name}' shows "
                "what there is"
            )
        return tag


def _is_model(artifact: Artifact) -> bool:
    try:
        return artifact.kind is None
    except DamagedArtifact:
        return False  # Unlike in `resolving.may_be_model`: another tool's manifest, not a copy to repair.
