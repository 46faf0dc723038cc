"""One model of the local registry: its names, and its files, each checked when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from classifier.artifact import CONFIG
from classifier.errors import DamagedArtifact
from registry.oci.manifest import FILEPATH, MANIFEST_TYPE, Descriptor, Manifest, parse_config
from registry.oci.references import Reference, version_of

if TYPE_CHECKING:
    from classifier.types import ModelConfig

_T = TypeVar("_T")


class BlobStore(Protocol):
    """Where an artifact's blobs are read: a `Layout` on disk, or the `RemoteBlobs` of a registry."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the blob's contents, after size and digest were checked."""

    def read_json(self, descriptor: Descriptor, type: type[_T]) -> _T:
        """Return the `type` that the blob's JSON describes."""

    def check_blob(self, descriptor: Descriptor) -> None:
        """Compare the blob with its descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model in a local registry; a `classifier.artifact.ArtifactFiles`.

    Attributes:
        name: the model's name, `digits`; of what was fetched from a remote registry, `ghcr.io/acme/digits`.
        tags: all by which the registry knows this digest under that name, versions first; None is the name alone.
        descriptor: of the manifest.
        layout: where the blobs are: on disk, or in a remote registry.
    """

    name: str
    tags: tuple[str | None, ...]
    descriptor: Descriptor
    layout: BlobStore = field(repr=False)

    @property
    def digest(self) -> str:
        """The manifest's digest: the artifact's identity."""
        return self.descriptor.digest

    @property
    def identity(self) -> str:
        """What logs, answers and rows carry: `digits@sha256:…`."""
        return f"{self.name}@{self.digest}"

    @property
    def version(self) -> int | None:
        """The version, the lowest if it was copied in under several; None if under an alias or the name alone."""
        return next((version for tag in self.tags if (version := version_of(tag)) is not None), None)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that stand on this version."""
        return tuple(tag for tag in self.tags if tag is not None and version_of(tag) is None)

    @property
    def is_copy(self) -> bool:
        """Whether this is a remote registry's model, or the copy that was fetched of it."""
        return Reference.parse(self.name).host is not None

    @property
    def reference(self) -> str:
        """The shortest reference that names this artifact for good: `digits:3`, else the identity."""
        return self.identity if self.version is None else f"{self.name}:{self.version}"

    @property
    def manifest(self) -> Manifest:
        """The manifest, after its digest was checked."""
        try:
            return self.layout.read_json(self.descriptor, Manifest)
        except DamagedArtifact as error:
            raise self.damaged(str(error)) from error

    @property
    def files(self) -> dict[str, Descriptor]:
        """The descriptors of the files, by name, in the manifest's order."""
        return self.manifest.files

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(layer.size for layer in self.files.values())

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return parse_config(self.read(CONFIG), self.reference)

    def read(self, file: str) -> bytes:
        """Return the contents of `file`, after its digest was checked.

        Raises:
            DamagedArtifact: the file is missing, or not what its digest says.
        """
        files = self.files
        if file not in files:
            raise self.damaged(f"it has no {file}, only {', '.join(files)}")
        try:
            return self.layout.read_blob(files[file])
        except DamagedArtifact as error:
            raise self.damaged(f"{file}: {error}") from error

    @property
    def kind(self) -> str | None:
        """What this is where it is no model: the type of an image or artifact that some tool copied into the folder."""
        if self.descriptor.media_type != MANIFEST_TYPE:
            return self.descriptor.media_type
        manifest = self.manifest
        return None if manifest.is_model else manifest.kind

    def verify(self) -> list[str]:
        """Return what is damaged, a sentence each, after reading every byte; an empty list where all is well."""
        try:
            if self.kind is not None:
                return [f"'{self.reference}' is not a model that Tandem exported but {self.kind}"]
            manifest = self.manifest
        except DamagedArtifact as error:
            return [str(error)]
        problems = []
        for blob in (manifest.config, *manifest.layers):
            try:
                self.layout.check_blob(blob)
            except DamagedArtifact as error:
                problems.append(str(self.damaged(f"{blob.annotations.get(FILEPATH, blob.media_type)}: {error}")))
        if not problems:
            try:
                missing = {allowed.graph for allowed in self.config.allowed} - set(manifest.files)
            except DamagedArtifact as error:
                return [str(error)]
            problems += [str(self.damaged(f"it has no {graph}, which its config names")) for graph in sorted(missing)]
        return problems

    def damaged(self, fact: str) -> DamagedArtifact:
        """Return the error that says so, with the way to a whole model."""
        remedy = (
            f"fetch it with 'tandem models pull {self.reference}', or where it came like this, export and push it again"
            if self.is_copy
            else f"export it again, or remove it with 'tandem models rm {self.reference} --force' and copy it in again"
        )
        return DamagedArtifact(f"model '{self.reference}' is damaged: {fact}; {remedy}")
