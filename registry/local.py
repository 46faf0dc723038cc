"""The local registry: names, immutable versions and moving aliases over an OCI image layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from classifier.errors import DamagedArtifact, InvalidReference, ModelNotFound, RegistryError
from classifier.home import tandem_home
from registry.oci.garbage import reachable
from registry.oci.index import artifacts, next_version, with_tag, without_tags
from registry.oci.layout import Layout
from registry.oci.manifest import pack
from registry.oci.references import Reference, check_alias, check_name, version_of
from registry.oci.referrers import list_referrers, read_referrers, store_referrers
from registry.resolving import SEE_LIST, find_artifact, may_be_model, only_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.oci.artifact import Artifact
    from registry.oci.manifest import Index
    from registry.oci.referrers import Referrer


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What `LocalRegistry.add` did.

    Attributes:
        created: False if the registry already had this artifact, and made no new version.
    """

    artifact: Artifact
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What `LocalRegistry.remove` did.

    Attributes:
        references: the versions and aliases that were removed.
        freed_bytes: the size of the deleted blobs, which nothing else used; 0 if the artifact still has a version.
    """

    references: tuple[str, ...]
    freed_bytes: int


class LocalRegistry:
    """The models in the OCI layout at `root`. Several processes may use it at once: writers lock, readers don't.

    Attributes:
        layout: the OCI image layout on disk.
    """

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)

    @classmethod
    def default(cls) -> Self:
        """Return the registry in `$TANDEM_HOME`, by default `~/.tandem`.

        Raises:
            RegistryError: TANDEM_HOME isn't set and the user has no home folder, as in some containers.
        """
        try:
            return cls(tandem_home() / "registry")
        except RuntimeError as error:
            raise RegistryError("this user has no home folder for a registry: set TANDEM_HOME") from error

    @classmethod
    def holding(cls, artifact: Artifact) -> Self:
        """Return the local registry that holds `artifact`."""
        assert isinstance(artifact.layout, Layout), "a remote model is pulled before it is used"
        return cls(artifact.layout.root)

    @property
    def root(self) -> Path:
        """The layout's folder."""
        return self.layout.root

    def models(self) -> list[Artifact]:
        """Return every model, by name and version; artifacts of other tools are left out."""
        return [artifact for artifact in self._artifacts() if may_be_model(artifact)]

    def resolve(self, reference: str | None) -> Artifact:
        """Return the model that `reference` names; None means the only model.

        A bare name means its `production` alias, else its highest version.

        Raises:
            InvalidReference: `reference` can't be parsed.
            ModelNotFound: nothing has that name, version, alias or digest, or it isn't a model.
            ModelNotNamed: `reference` is None, and there are several models.
            DamagedArtifact: the manifest is missing or damaged.
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
        """Return the artifact that `reference` names without opening it: it may be damaged, or not a model.

        Raises:
            InvalidReference: `reference` can't be parsed.
            ModelNotFound: nothing has that name, version, alias or digest.
        """
        return find_artifact(Reference.parse(reference), self._artifacts(), self.root)

    def add(self, name: str, files: Mapping[str, bytes]) -> Added:
        """Store `files` as the next version of `name`, unless one of its versions has the same files.

        Raises:
            InvalidReference: `name` is invalid, or has a tag, a digest or a host.
            DamagedArtifact: `config.json` is missing or malformed.
            RegistryUnwritable: the disk is full, the folder is read-only, or another writer doesn't finish.
        """
        check_name(name)
        descriptor, blobs = pack(files)
        with self.layout.writing():
            index = self.layout.read_index()
            # Before comparing versions, so that adding a damaged artifact again repairs it.
            self.layout.write_blobs(blobs)
            same = artifacts(index, self.layout).get((name, descriptor.digest))
            if same is not None and same.version is not None:
                return Added(artifact=same, created=False)
            index = with_tag(index, name, str(next_version(index, name)), descriptor)
            self.layout.write_index(index)
        return Added(artifact=artifacts(index, self.layout)[name, descriptor.digest], created=True)

    def copy(self, artifact: Artifact, target: LocalRegistry) -> Artifact:
        """Store `artifact` in `target` under the same name, version and digest.

        Raises:
            RegistryError: `target` has another model under that version.
            DamagedArtifact: a file is missing or damaged.
            RegistryUnwritable: `target` can't be written.
        """
        manifest = artifact.manifest
        tag = None if artifact.version is None else str(artifact.version)
        layout = target.layout
        with layout.writing():
            index = layout.read_index()
            for other in artifacts(index, layout).values():
                if other.name == artifact.name and tag in other.tags and other.digest != artifact.digest:
                    raise RegistryError(
                        f"'{artifact.reference}' in the registry {target.root} is {other.digest}, "
                        f"not {artifact.digest}, and versions never change: copy to another folder"
                    )
            for blob in (*manifest.blobs, artifact.descriptor):
                layout.write_blobs({blob.digest: artifact.layout.read_blob(blob)})
            index = with_tag(index, artifact.name, tag, artifact.descriptor)
            layout.write_index(index)
        store_referrers(read_referrers(artifact.digest, self.layout), layout)
        return artifacts(index, layout)[artifact.name, artifact.digest]

    def adopt(self, artifact: Artifact) -> Artifact | None:
        """Name a remote model whose blobs were received, and return its copy; return None if a blob is missing.

        Raises:
            RegistryUnwritable: the registry can't be written.
        """
        manifest = artifact.layout.read_blob(artifact.descriptor)
        with self.layout.writing():
            # Until a blob is named, another process may collect it as garbage.
            if not all(map(self.layout.has_blob, artifact.manifest.blobs)):
                return None
            self.layout.write_blobs({artifact.digest: manifest})
            index = with_tag(self.layout.read_index(), artifact.name, artifact.tags[0], artifact.descriptor)
            self.layout.write_index(index)
        return artifacts(index, self.layout)[artifact.name, artifact.digest]

    def tag(self, reference: str, *aliases: str) -> Artifact:
        """Move `aliases` to the model that `reference` names.

        Raises:
            InvalidReference: an alias is a number, or reads as a digest.
            ModelNotFound: nothing has that reference.
            RegistryUnwritable: the registry can't be written.
        """
        for alias in aliases:
            check_alias(alias)
        self.resolve(reference)  # Before the lock, so that an unknown model creates no folder.
        with self.layout.writing():
            artifact = self.resolve(reference)
            index = self.layout.read_index()
            for alias in aliases:
                index = with_tag(index, artifact.name, alias, artifact.descriptor)
            self.layout.write_index(index)
        return artifacts(index, self.layout)[artifact.name, artifact.digest]

    def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Remove an alias, or a version with its files; keep files that other versions use.

        Raises:
            InvalidReference: a bare name, which could mean any version.
            ModelNotFound: nothing has that reference.
            RegistryError: the version has aliases, and `force` is False.
            RegistryUnwritable: the registry can't be written.
        """
        self.find(reference)  # Before the lock, so that an unknown model creates no folder.
        with self.layout.writing():
            artifact = self.find(reference)
            gone = _tags_to_remove(Reference.parse(reference), artifact, force=force)
            index = without_tags(self.layout.read_index(), artifact, gone)
            unnamed = all(entry.digest != artifact.digest for entry in index.manifests)
            # Referrers go with the model's last name; their entries would keep their files.
            referrers = list_referrers(artifact.digest, self.layout) if unnamed else []
            gone_too = {referrer.descriptor.digest for referrer in referrers}
            index = replace(index, manifests=tuple(e for e in index.manifests if e.digest not in gone_too))
            # The index first: a kill in between leaves too many blobs, never too few.
            self.layout.write_index(index)
            freed_bytes = self._remove_unused_blobs(artifact, referrers, index) if unnamed else 0
        return Removed(
            references=tuple(f"{artifact.name}:{tag}" if tag else artifact.name for tag in gone),
            freed_bytes=freed_bytes,
        )

    def _artifacts(self) -> list[Artifact]:
        return list(artifacts(self.layout.read_index(), self.layout).values())

    def _remove_unused_blobs(self, artifact: Artifact, referrers: Sequence[Referrer], index: Index) -> int:
        """Delete the blobs that only `artifact` and its `referrers` used; return their size in bytes."""
        try:
            blobs = {blob.digest: blob.size for blob in (*artifact.manifest.blobs, artifact.descriptor)}
        except DamagedArtifact:
            # A damaged manifest no longer says which files it listed.
            blobs = {artifact.digest: 0}
        for referrer in referrers:
            blobs |= {blob.digest: blob.size for blob in referrer.manifest.blobs}
            blobs[referrer.descriptor.digest] = 0
        try:
            used = reachable(self.layout, index)
        except DamagedArtifact:
            # A damaged neighbour may use any of these files: keep them.
            used = set(blobs) - {artifact.digest}
        unused = {digest: size for digest, size in blobs.items() if digest not in used}
        for digest in unused:
            self.layout.remove_blob(digest)
        return sum(unused.values())


def _tags_to_remove(reference: Reference, artifact: Artifact, *, force: bool) -> tuple[str | None, ...]:
    """Return the tags to remove for `reference`: an alias alone, or a version with its aliases."""
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
