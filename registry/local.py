"""The local registry: names, immutable versions and moving aliases over an OCI image layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from classifier.errors import DamagedArtifact, InvalidReference, ModelNotFound, RegistryError
from classifier.home import tandem_home
from registry.index import artifacts, next_version, with_tag, without_tags
from registry.layout import Layout
from registry.lookup import SEE_LIST, find_artifact, may_be_model, only_name
from registry.manifest import INDEX_TYPE, Descriptor, Index, pack
from registry.references import Reference, check_alias, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.artifact import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What `LocalRegistry.add` did.

    Attributes:
        created: False where the registry had this very artifact before, and made no new version.
    """

    artifact: Artifact
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What `LocalRegistry.remove` did.

    Attributes:
        references: the versions and aliases that are gone.
        freed_bytes: of blobs that nothing else uses; 0 where the artifact still has a version.
    """

    references: tuple[str, ...]
    freed_bytes: int


class LocalRegistry:
    """The models in the OCI layout at `root`. Safe with several processes: writers lock, readers never do."""

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)

    @classmethod
    def default(cls) -> Self:
        """Return the registry of `$TANDEM_HOME`, which is `~/.tandem` where it isn't set.

        Raises:
            RegistryError: there is no home either, as in a container whose user has none.
        """
        try:
            return cls(tandem_home() / "registry")
        except RuntimeError as error:
            raise RegistryError("this user has no home folder for a registry: set TANDEM_HOME") from error

    @property
    def root(self) -> Path:
        """The layout's folder."""
        return self._layout.root

    def models(self) -> list[Artifact]:
        """Return every model, by name and version; what else some tool copied into the folder is left out."""
        return [artifact for artifact in self._artifacts() if may_be_model(artifact)]

    def resolve(self, reference: str | None) -> Artifact:
        """Return the model that `reference` names; for None, the only one there is.

        A bare name means its `production` alias, else its highest version.

        Raises:
            InvalidReference: it can't be read.
            ModelNotFound: nothing has that name, version, alias or digest, or what has it is no model.
            ModelNotNamed: None, and there are several models.
            DamagedArtifact: the manifest is missing, or not what its digest says.
        """
        stored = self._artifacts()
        reference = only_name(stored, self.root) if reference is None else reference
        artifact = find_artifact(Reference.parse(reference), stored, self.root)
        if (kind := artifact.kind) is not None:
            raise ModelNotFound(
                f"'{reference}' in the registry {self.root} is not a model that Tandem exported but {kind}: {SEE_LIST}"
            )
        return artifact

    def find(self, reference: str) -> Artifact:
        """Return the artifact that `reference` names, be it damaged or no model: nothing of it is opened.

        Raises:
            InvalidReference: it can't be read.
            ModelNotFound: nothing has that name, version, alias or digest.
        """
        return find_artifact(Reference.parse(reference), self._artifacts(), self.root)

    def add(self, name: str, files: Mapping[str, bytes]) -> Added:
        """Store `files` as the next version of `name`, unless a version of it has exactly these.

        Raises:
            InvalidReference: `name` is none, or has a tag, a digest or a host.
            DamagedArtifact: `config.json` is missing or malformed.
            RegistryUnwritable: the disk is full, the folder is read-only, or another writer does not end.
        """
        parsed = Reference.parse(name)
        if name != parsed.name:
            raise InvalidReference(f"'{name}' can't name a new model: write '{parsed.name}', the registry numbers it")
        descriptor, blobs = pack(files)
        with self._layout.writing():
            index = self._layout.read_index()
            # Before the look at the versions, so that adding a damaged artifact again repairs it.
            self._layout.write_blobs(blobs)
            same = artifacts(index, self._layout).get((name, descriptor.digest))
            if same is not None and same.version is not None:
                return Added(artifact=same, created=False)
            index = with_tag(index, name, str(next_version(index, name)), descriptor)
            self._layout.write_index(index)
        return Added(artifact=artifacts(index, self._layout)[name, descriptor.digest], created=True)

    def copy(self, artifact: Artifact, target: LocalRegistry) -> Artifact:
        """Store `artifact` in `target` under the same name, version and digest.

        Raises:
            RegistryError: `target` has another model by that version.
            DamagedArtifact: a file is missing, or not what its digest says.
            RegistryUnwritable: `target` can't be written.
        """
        manifest = artifact.manifest
        tag = None if artifact.version is None else str(artifact.version)
        layout = target._layout
        with layout.writing():
            index = layout.read_index()
            for other in artifacts(index, layout).values():
                if other.name == artifact.name and tag in other.tags and other.digest != artifact.digest:
                    raise RegistryError(
                        f"'{Reference(name=artifact.name, tag=tag)}' in the registry {target.root} is {other.digest}, "
                        f"not {artifact.digest}, and versions never change: copy to another folder"
                    )
            for blob in (*manifest.layers, manifest.config, artifact.descriptor):
                layout.write_blobs({blob.digest: artifact.layout.read_blob(blob)})
            index = with_tag(index, artifact.name, tag, artifact.descriptor)
            layout.write_index(index)
        return artifacts(index, layout)[artifact.name, artifact.digest]

    def tag(self, reference: str, *aliases: str) -> Artifact:
        """Put `aliases` on the model that `reference` names, and take them off any other version of it.

        Raises:
            InvalidReference: an alias is a number, or reads as a digest.
            ModelNotFound: nothing has that reference.
            RegistryUnwritable: the registry can't be written.
        """
        for alias in aliases:
            check_alias(alias)
        self.resolve(reference)  # Before the lock: what isn't there is an error that makes no folder.
        with self._layout.writing():
            artifact = self.resolve(reference)
            index = self._layout.read_index()
            for alias in aliases:
                index = with_tag(index, artifact.name, alias, artifact.descriptor)
            self._layout.write_index(index)
        return artifacts(index, self._layout)[artifact.name, artifact.digest]

    def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Remove an alias, or a version with its files; files that other versions use are kept.

        Raises:
            InvalidReference: a bare name, which could mean any version.
            ModelNotFound: nothing has that reference.
            RegistryError: aliases stand on the version, and not `force`.
            RegistryUnwritable: the registry can't be written.
        """
        self.find(reference)  # Before the lock: what isn't there is an error that makes no folder.
        with self._layout.writing():
            artifact = self.find(reference)
            gone = _tags_to_remove(Reference.parse(reference), artifact, force=force)
            index = without_tags(self._layout.read_index(), artifact.name, gone)
            # The index first: killed in between, the folder holds blobs too many, never too few.
            self._layout.write_index(index)
            freed_bytes = self._remove_unused_blobs(artifact, index) if len(gone) == len(artifact.tags) else 0
        return Removed(
            references=tuple(str(Reference(name=artifact.name, tag=tag)) for tag in gone), freed_bytes=freed_bytes
        )

    def _artifacts(self) -> list[Artifact]:
        return list(artifacts(self._layout.read_index(), self._layout).values())

    def _remove_unused_blobs(self, artifact: Artifact, index: Index) -> int:
        """Delete the blobs that only `artifact` used; return their size in bytes."""
        try:
            manifest = artifact.manifest
            blobs = {blob.digest: blob.size for blob in (*manifest.layers, manifest.config, artifact.descriptor)}
        except DamagedArtifact:
            # Which files a damaged manifest listed is not known any more.
            blobs = {artifact.digest: 0}
        try:
            used = set().union(*map(self._digests, index.manifests))
        except DamagedArtifact:
            # Which files a damaged neighbour uses is not known either: too many are better than too few.
            used = set(blobs) - {artifact.digest}
        unused = {digest: size for digest, size in blobs.items() if digest not in used}
        for digest in unused:
            self._layout.remove_blob(digest)
        return sum(unused.values())

    def _digests(self, descriptor: Descriptor) -> set[str]:
        """Return every digest that the blob of `descriptor` mentions, whatever kind of manifest it is, and its own."""
        if descriptor.media_type == INDEX_TYPE:
            nested = self._layout.read_json(descriptor, Index).manifests
            return {descriptor.digest}.union(*map(self._digests, nested))
        text = self._layout.read_blob(descriptor).decode(errors="replace")
        return {descriptor.digest, *re.findall(r"sha256:[0-9a-f]{64}", text)}


def _tags_to_remove(reference: Reference, artifact: Artifact, *, force: bool) -> tuple[str | None, ...]:
    """Return the tags that removing `reference` takes: an alias alone, or a version with all that stands on it."""
    if reference.tag is None and reference.digest is None and artifact.tags != (None,):
        raise InvalidReference(f"'{reference}' could mean any of its versions: name one, '{artifact.reference}'")
    others = tuple(tag for tag in artifact.tags if tag != reference.tag)
    if reference.tag is not None and (reference.version is None or any(version_of(tag) for tag in others)):
        return (reference.tag,)
    if artifact.aliases and not force:
        raise RegistryError(
            f"'{artifact.reference}' is {' and '.join(artifact.aliases)}: give that to another version with 'tandem "
            f"models tag {artifact.name}:… {' '.join(artifact.aliases)}' first, or remove all of it with --force"
        )
    return artifact.tags
