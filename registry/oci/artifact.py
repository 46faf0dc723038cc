"""One model: its names, and its files, each checked at every read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from classifier.artifact import CONFIG, MAX_BYTES
from classifier.errors import DamagedArtifact, OutOfDeviceMemory
from classifier.hardware import memory_limit
from classifier.types import from_json
from registry.oci.manifest import FILEPATH, MANIFEST_TYPE, Descriptor, Manifest, parse_config
from registry.oci.references import Reference, version_of

if TYPE_CHECKING:
    from classifier.types import ModelConfig

_COPIES = 2
"""An engine that opens a graph holds the file and its own copy of the weights, at least."""


class BlobStore(Protocol):
    """Read access to an artifact's blobs: a `Layout` on disk, or `RemoteBlobs` over HTTP."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the blob's contents, checked against size and digest."""

    def check_blob(self, descriptor: Descriptor) -> None:
        """Compare the blob with its descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model in a registry; implements `classifier.artifact.ArtifactFiles`.

    Attributes:
        name: the model's name, `digits`; for a remote model or its copy, `ghcr.io/acme/digits`.
        tags: all tags that point to this digest under that name, versions first; None stands for the name alone.
        descriptor: the manifest's.
        layout: the blobs, on disk or in a remote registry.
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
        """The identity in logs, answers and rows: `digits@sha256:…`."""
        return f"{self.name}@{self.digest}"

    @property
    def version(self) -> int | None:
        """The version, the lowest if there are several; None if it has only an alias or its name."""
        return next(iter(self.versions), None)

    @property
    def versions(self) -> tuple[int, ...]:
        """All its versions, ascending."""
        return tuple(version for tag in self.tags if (version := version_of(tag)) is not None)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that point to this version."""
        return tuple(tag for tag in self.tags if tag is not None and version_of(tag) is None)

    @property
    def is_copy(self) -> bool:
        """Whether this is a remote model, or the local copy of one."""
        return Reference.parse(self.name).host is not None

    @property
    def reference(self) -> str:
        """The shortest permanent reference: `digits:3`, else the identity."""
        return self.identity if self.version is None else f"{self.name}:{self.version}"

    @property
    def manifest(self) -> Manifest:
        """The manifest, checked against its digest."""
        try:
            return from_json(self.layout.read_blob(self.descriptor), Manifest)
        except DamagedArtifact as error:
            raise self.damaged(str(error)) from error
        except ValueError as error:
            raise self.damaged(f"its manifest {self.digest} can't be read: {error}") from error

    @property
    def files(self) -> dict[str, Descriptor]:
        """The files' descriptors by name, in the manifest's order."""
        return self.manifest.files

    @property
    def size(self) -> int:
        """The size of all files together, in bytes."""
        return sum(layer.size for layer in self.files.values())

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return parse_config(self.read(CONFIG), self.reference)

    def read(self, file: str) -> bytes:
        """Return the contents of `file`, checked against its digest.

        Raises:
            DamagedArtifact: the file is missing or damaged, or larger than such a file may be.
            OutOfDeviceMemory: no engine could open it in the memory of this container.
        """
        files = self.files
        if file not in files:
            raise self.damaged(f"it has no {file}, only {', '.join(files)}")
        self._check_size(file, files[file])
        size = files[file].size
        if (memory := memory_limit()) is not None and _COPIES * size > memory:
            raise OutOfDeviceMemory(
                f"model '{self.reference}' does not fit into this container: {file} has {size:,} bytes, and an engine "
                f"needs {_COPIES} times that, but the limit on memory is {memory:,} bytes; give the container more"
            )
        try:
            return self.layout.read_blob(files[file])
        except DamagedArtifact as error:
            raise self.damaged(f"{file}: {error}") from error

    def check_sizes(self) -> None:
        """Check that the files which are read as a whole are as small as they should be, before any is fetched.

        Raises:
            DamagedArtifact: one is too large.
        """
        manifest = self.manifest
        for file, descriptor in (*manifest.files.items(), (CONFIG, manifest.config)):
            self._check_size(file, descriptor)

    def _check_size(self, file: str, descriptor: Descriptor) -> None:
        limit = MAX_BYTES.get(file)
        if limit is not None and descriptor.size > limit:
            raise self.damaged(f"{file} has {descriptor.size:,} bytes, over the limit of {limit:,}")

    @property
    def kind(self) -> str | None:
        """The type of an image or artifact that isn't a model, as another tool may have stored it; None for a model."""
        if self.descriptor.media_type != MANIFEST_TYPE:
            return self.descriptor.media_type
        manifest = self.manifest
        return None if manifest.is_model else manifest.kind

    def verify(self) -> list[str]:
        """Read every byte and return what is damaged, a sentence each; an empty list if the model is whole."""
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
        """Return an error with this fact and the way to a whole model."""
        remedy = (
            f"fetch it with 'tandem models pull {self.reference}', or if it is damaged there, export and push it again"
            if self.is_copy
            else f"export it again, or remove it with 'tandem models rm {self.reference} --force' and copy it in again"
        )
        return DamagedArtifact(f"model '{self.reference}' is damaged: {fact}; {remedy}")
