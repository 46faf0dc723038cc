"""The models of a remote repository: by reference, without their weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from classifier.errors import DamagedArtifact, ModelNotFound
from classifier.types import from_json
from registry.oci.artifact import Artifact
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.references import Reference, check_alias, version_of
from registry.remote.connection import CONNECTIONS, MAX_ANSWER_BYTES
from registry.remote.repository import RemoteRepository
from registry.resolving import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.oci.manifest import Descriptor

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RemoteBlobs:
    """The blobs of one remote artifact; a `registry.oci.artifact.BlobStore`.

    Attributes:
        repository: where they are.
        known: those that were read already, by digest: the manifest at least, which a registry keeps elsewhere.
    """

    repository: RemoteRepository
    known: Mapping[str, bytes]

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the contents of a small blob, after its digest was checked.

        Raises:
            DamagedArtifact: it is missing, not what the descriptor says, or too large to be held.
        """
        if descriptor.digest in self.known:
            return self.known[descriptor.digest]
        self.check_blob(descriptor)
        return self.repository.read_blob(descriptor)

    def read_json(self, descriptor: Descriptor, type: type[_T]) -> _T:
        """Return the `type` that the blob's JSON describes.

        Raises:
            DamagedArtifact: as `read_blob`, or it is no such JSON.
        """
        try:
            return from_json(self.read_blob(descriptor), type)
        except ValueError as error:
            raise DamagedArtifact(f"{descriptor.digest} of {self.repository} can't be read: {error}") from error

    def check_blob(self, descriptor: Descriptor) -> None:
        """Check that the blob is small enough to be read here.

        Raises:
            DamagedArtifact: it is not.
        """
        if descriptor.size > MAX_ANSWER_BYTES:
            raise DamagedArtifact(
                f"{descriptor.digest} of {self.repository} has {descriptor.size} bytes: 'tandem models pull' fetches it"
            )


class RemoteModels:
    """The models in the repository of `reference`, each by its tags."""

    def __init__(self, reference: Reference) -> None:
        assert reference.host is not None, "local references are LocalRegistry's"
        self._name = reference.repository
        self.repository = RemoteRepository(reference.host, reference.name)

    def resolve(self, reference: Reference) -> Artifact:
        """Return the model that `reference` names: its manifest was read and checked, its files were not.

        Raises:
            ModelNotFound: there is no such tag or digest, or what has it is no model.
            DamagedArtifact: what comes is not what its digest says.
        """
        wanted = reference.digest or reference.tag or self._meant_by_bare_name()
        artifact = self.find(wanted)
        if artifact is None:
            raise ModelNotFound(
                f"'{reference}' is not in its registry: 'tandem models list {self._name}' shows what is"
            )
        if (kind := artifact.kind) is not None:
            raise ModelNotFound(f"'{reference}' is not a model that Tandem exported but {kind}: name one that is")
        return artifact

    def find(self, tag_or_digest: str) -> Artifact | None:
        """Return what has that tag or digest, be it a model or not; None where nothing has."""
        found = self.repository.find_manifest(tag_or_digest)
        if found is None:
            return None
        descriptor, manifest = found
        tag = None if ":" in tag_or_digest else tag_or_digest
        blobs = RemoteBlobs(self.repository, {descriptor.digest: manifest})
        return Artifact(name=self._name, tags=(tag,), descriptor=descriptor, layout=blobs)

    def models(self) -> list[Artifact]:
        """Return every model, by version and alias; what else is in the repository is left out.

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
                models[artifact.digest] = Artifact(
                    name=self._name,
                    tags=tuple(sorted(together, key=_tag_order)),
                    descriptor=artifact.descriptor,
                    layout=artifact.layout,
                )
        if not models:
            raise ModelNotFound(
                f"{self._name} holds no model: 'tandem models push digits {self._name}' would bring one there"
            )
        return sorted(models.values(), key=lambda model: _tag_order(model.tags[0]))

    def tag(self, reference: Reference, *aliases: str) -> Artifact:
        """Put `aliases` on the model that `reference` names, and take them off any other version of it.

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
        """Return the lowest number above all versions that are there."""
        return max((version_of(tag) or 0 for tag in self.repository.tags()), default=0) + 1

    def _meant_by_bare_name(self) -> str:
        tags = self.repository.tags()
        if PRODUCTION in tags:
            return PRODUCTION
        versions = [tag for tag in tags if version_of(tag) is not None]
        if not versions:
            raise ModelNotFound(
                f"'{self._name}' has neither '{PRODUCTION}' nor a version: 'tandem models list {self._name}' shows "
                "what there is"
            )
        return max(versions, key=lambda tag: version_of(tag) or 0)


def _is_model(artifact: Artifact) -> bool:
    try:
        return artifact.kind is None
    except DamagedArtifact:
        return False  # A manifest that isn't even JSON of the right shape is nobody's model.


def _tag_order(tag: str | None) -> tuple[int, int, str]:
    version = version_of(tag)
    return (0, version, "") if version is not None else (1, 0, tag or "")
