"""The local registry: versions that never change, and aliases that move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from classifier.artifact import CARD, CONFIG, FILES, MODEL
from classifier.errors import DamagedArtifact, InvalidReference, ModelNotFound, RegistryError
from registry import LocalRegistry
from registry.oci.manifest import Index
from tests.registry.artifacts import CONFIG_OF_DIGITS, blob_path, make_files, put

OTHER_DIGEST = "sha256:" + "0" * 64


def blobs(registry: LocalRegistry) -> set[str]:
    return {path.name for path in (registry.root / "blobs" / "sha256").iterdir()}


def test_tandem_home_places_the_default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is below TANDEM_HOME; if that is unset or empty, below ~/.tandem."""
    monkeypatch.setenv("HOME", "/home/ada")
    for value, root in [("/data/tandem", "/data/tandem/registry"), ("~/t", "/home/ada/t/registry"),
                        ("", "/home/ada/.tandem/registry")]:  # fmt: skip
        monkeypatch.setenv("TANDEM_HOME", value)
        assert LocalRegistry.default().root == Path(root)


# Adding


def test_what_is_read_is_what_was_added(registry: LocalRegistry) -> None:
    """Every file comes back unchanged, in the manifest's order."""
    files = make_files()
    added = registry.add("digits", files)
    assert added.created
    artifact = registry.resolve("digits:1")
    assert artifact == added.artifact
    assert tuple(artifact.files) == FILES
    assert {file: artifact.read(file) for file in artifact.files} == files
    assert artifact.config == CONFIG_OF_DIGITS
    assert artifact.size == sum(map(len, files.values()))
    assert artifact.identity == f"digits@{artifact.digest}"


def test_versions_count_up_per_name(registry: LocalRegistry) -> None:
    """Each new artifact of a name is its next version, whatever other names have."""
    assert [registry.add("digits", make_files(graph)).artifact.version for graph in "abc"] == [1, 2, 3]
    assert registry.add("acme/fashion", make_files("a")).artifact.reference == "acme/fashion:1"


def test_the_same_files_make_no_second_version(registry: LocalRegistry) -> None:
    """A repeated export is recognised, even after other versions were added."""
    first = registry.add("digits", make_files("a")).artifact
    registry.add("digits", make_files("b"))
    before = (registry.root / "index.json").read_bytes()
    again = registry.add("digits", make_files("a"))
    assert (again.created, again.artifact) == (False, first)
    assert (registry.root / "index.json").read_bytes() == before


def test_the_number_of_a_removed_version_is_not_given_again(registry: LocalRegistry) -> None:
    """`digits:2` never names another model, not even after the highest version was removed."""
    for graph in "ab":
        registry.add("digits", make_files(graph))
    registry.remove("digits:2")
    assert registry.add("digits", make_files("b")).artifact.version == 3
    registry.remove("digits:3")
    registry.remove("digits:1")
    assert registry.add("digits", make_files("c")).artifact.version == 4


@pytest.mark.parametrize("name", ["digits:3", f"digits@{OTHER_DIGEST}", "localhost:5000/digits", "Digits", "", "a b"])
def test_a_new_model_wants_a_name_alone(registry: LocalRegistry, name: str) -> None:
    """The registry numbers a model; a name with a tag, digest or host is refused before anything is written."""
    with pytest.raises(InvalidReference):
        registry.add(name, make_files())
    assert not registry.root.exists()


def test_adding_a_damaged_artifact_again_repairs_it(registry: LocalRegistry) -> None:
    """The remedy in the error works: exporting the model again."""
    artifact = registry.add("digits", make_files()).artifact
    for digest in [artifact.digest, artifact.files[MODEL].digest]:
        blob_path(registry, digest).write_bytes(b"damaged")
    with pytest.raises(DamagedArtifact, match="export it again"):
        artifact.read(MODEL)
    assert not registry.add("digits", make_files()).created
    assert registry.resolve("digits:1").verify() == []


# Tagging


def test_an_alias_moves_and_stands_on_one_version(stocked: LocalRegistry) -> None:
    """Moving `production` to a version takes it from the last one."""
    stocked.tag("digits:1", "production")
    stocked.tag("digits:3", "production")
    assert [artifact.aliases for artifact in stocked.models()] == [("candidate",), (), ("production",)]


def test_a_version_gets_an_alias_through_another_alias(stocked: LocalRegistry) -> None:
    """`tag digits:candidate production` promotes what was tried."""
    assert stocked.tag("digits:candidate", "production", "live").aliases == ("candidate", "live", "production")


def test_a_version_can_t_be_moved(stocked: LocalRegistry) -> None:
    """An alias can't be a number, so `digits:2` never changes; if one alias is invalid, none is set."""
    with pytest.raises(InvalidReference, match="'2' can't be an alias"):
        stocked.tag("digits:3", "production", "2")
    assert stocked.resolve("digits:3").aliases == ()


def test_an_unknown_model_can_t_be_tagged(registry: LocalRegistry) -> None:
    """The error names the model, and nothing is written."""
    with pytest.raises(ModelNotFound):
        registry.tag("digits:1", "production")
    assert not registry.root.exists()


# Removing


def test_removing_a_version_frees_what_it_alone_used(stocked: LocalRegistry) -> None:
    """Its manifest and graph go; config, card and golden set stay, since others use them."""
    before = blobs(stocked)
    artifact = stocked.resolve("digits:2")
    own = [artifact.descriptor, artifact.manifest.config, artifact.files[MODEL]]
    removed = stocked.remove("digits:2")
    assert removed.references == ("digits:2",)
    assert before - blobs(stocked) == {descriptor.digest.removeprefix("sha256:") for descriptor in own}
    assert removed.freed_bytes == sum(descriptor.size for descriptor in own)
    assert all(artifact.verify() == [] for artifact in stocked.models())
    with pytest.raises(ModelNotFound):
        stocked.resolve("digits:2")


def test_removing_the_last_model_leaves_no_blob_path(registry: LocalRegistry) -> None:
    """An empty registry is empty on disk too."""
    registry.add("digits", make_files())
    registry.remove("digits:1")
    assert blobs(registry) == set()
    assert registry.models() == []


def test_a_digest_that_has_two_names_outlives_one_of_them(registry: LocalRegistry) -> None:
    """The same files under another name are another model, and keep their blobs."""
    registry.add("digits", make_files())
    registry.add("acme/digits", make_files())
    assert registry.remove("digits:1").freed_bytes == 0
    assert registry.resolve("acme/digits:1").verify() == []


def test_removing_an_alias_keeps_the_version(stocked: LocalRegistry) -> None:
    """`rm digits:candidate` takes the alias off, and nothing else."""
    removed = stocked.remove("digits:candidate")
    assert (removed.references, removed.freed_bytes) == (("digits:candidate",), 0)
    assert stocked.resolve("digits:1").aliases == ()


@pytest.mark.parametrize("form", ["digits:1", "digits@{digest}"])
def test_a_version_with_aliases_is_removed_only_by_force(stocked: LocalRegistry, form: str) -> None:
    """A typing mistake can't remove the production model."""
    reference = form.format(digest=stocked.resolve("digits:1").digest)
    with pytest.raises(RegistryError, match=r"'digits:1' is candidate: .* tag digits:… candidate' first.*--force"):
        stocked.remove(reference)
    assert stocked.resolve("digits:candidate").version == 1
    assert stocked.remove(reference, force=True).references == ("digits:1", "digits:candidate")
    with pytest.raises(ModelNotFound):
        stocked.resolve("digits:candidate")


def test_a_bare_name_is_not_removed(stocked: LocalRegistry) -> None:
    """If a name has three versions, the one to remove must be named."""
    with pytest.raises(InvalidReference, match="name one, 'digits:3'"):
        stocked.remove("digits")
    assert len(stocked.models()) == 3


@pytest.mark.parametrize("file", [None, MODEL, CONFIG])
def test_a_damaged_model_can_be_removed(stocked: LocalRegistry, file: str | None) -> None:
    """The other remedy in the error works too, for a damaged manifest and for a damaged file."""
    artifact = stocked.resolve("digits:2")
    blob_path(stocked, artifact.digest if file is None else artifact.files[file].digest).write_bytes(b"damaged")
    assert stocked.find("digits:2").verify() != []
    stocked.remove("digits:2")
    if file != CONFIG:  # which the other versions share
        assert all(artifact.verify() == [] for artifact in stocked.models())
    assert [artifact.version for artifact in stocked.models()] == [1, 3]


def test_nothing_of_a_damaged_neighbour_is_removed(stocked: LocalRegistry) -> None:
    """A damaged manifest may use any file, so removing another model keeps them all."""
    manifest = blob_path(stocked, stocked.resolve("digits:1").digest)
    whole = manifest.read_bytes()
    manifest.write_bytes(b"damaged")
    stocked.remove("digits:2")
    stocked.remove("digits:3")
    manifest.write_bytes(whole)
    assert stocked.resolve("digits:1").verify() == []


# What other tools put into the folder


IMAGE = {"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                                        "digest": OTHER_DIGEST}, "layers": []}  # fmt: skip


@pytest.fixture
def shared_folder(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry whose folder also holds an image, an index of images, and entries without a usable name."""
    registry.add("digits", make_files())
    image = put(registry, "web:latest", IMAGE, "application/vnd.oci.image.manifest.v1+json")
    nested = Index(schema_version=2, manifests=(image,))
    put(registry, "multi:latest", nested, "application/vnd.oci.image.index.v1+json")
    put(registry, None, {**IMAGE, "annotations": {"a": "b"}}, "application/vnd.oci.image.manifest.v1+json")
    put(registry, "Web App", {**IMAGE, "annotations": {"a": "c"}}, "application/vnd.oci.image.manifest.v1+json")
    return registry


def test_what_is_no_model_is_not_listed(shared_folder: LocalRegistry) -> None:
    """Images in the same folder aren't listed, and don't hide the only model."""
    assert [artifact.reference for artifact in shared_folder.models()] == ["digits:1"]
    assert shared_folder.resolve(None).reference == "digits:1"


@pytest.mark.parametrize(("reference", "kind"), [("web:latest", "image.config"), ("multi:latest", "image.index")])
def test_what_is_no_model_can_t_be_used(shared_folder: LocalRegistry, reference: str, kind: str) -> None:
    """The error says what it is instead."""
    with pytest.raises(ModelNotFound, match=rf"'{reference}' .* is not a model that Tandem exported but .*{kind}"):
        shared_folder.resolve(reference)


def test_what_is_no_model_is_kept_as_it_is(shared_folder: LocalRegistry) -> None:
    """Writing the index keeps the entries of other tools, and removing a model keeps their blobs."""

    def foreign() -> list[dict[str, object]]:
        index = json.loads((shared_folder.root / "index.json").read_bytes())
        names = [
            entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for entry in index["manifests"]
        ]
        return [
            {key: value for key, value in entry.items() if value}
            for entry, name in zip(index["manifests"], names, strict=True)
            if not name.startswith("digits")
        ]

    before = foreign()
    shared_folder.tag("digits:1", "production")
    shared_folder.remove("digits:1", force=True)
    assert foreign() == before
    for entry in before:
        assert blob_path(shared_folder, str(entry["digest"])).exists()


def test_a_model_inside_of_an_index_keeps_its_files(registry: LocalRegistry) -> None:
    """Another tool's index that lists a model's manifest keeps all its files."""
    artifact = registry.add("digits", make_files()).artifact
    nested = Index(schema_version=2, manifests=(artifact.descriptor,))
    put(registry, "multi:1", nested, "application/vnd.oci.image.index.v1+json")
    assert registry.remove("digits:1").freed_bytes == 0
    assert artifact.verify() == []


def test_a_model_without_a_version_has_its_name(registry: LocalRegistry) -> None:
    """`skopeo copy … oci:…:fashion` names no version: the bare name finds it, and the next version is 1."""
    source = registry.add("digits", make_files()).artifact
    put(registry, "fashion", source.manifest, source.descriptor.media_type)
    artifact = registry.resolve("fashion")
    assert (artifact.version, artifact.aliases, artifact.reference) == (None, (), artifact.identity)
    assert registry.add("fashion", make_files("new")).artifact.version == 1
    assert registry.resolve("fashion").version == 1
    assert registry.remove(artifact.identity).references == ("fashion",)


def test_of_two_entries_with_one_name_the_first_counts(stocked: LocalRegistry) -> None:
    """An index that names a version twice, as only another tool writes it, still has one answer."""
    other = stocked.resolve("digits:3")
    put(stocked, "digits:1", other.manifest, other.descriptor.media_type)
    assert stocked.resolve("digits:1").digest != other.digest
    assert stocked.resolve("digits:3") == other


# Copying


def test_a_copy_is_a_registry_with_one_model(stocked: LocalRegistry, tmp_path: Path) -> None:
    """As in a Bento: the same digest and version, and no files of other versions."""
    artifact = stocked.resolve("digits:2")
    target = LocalRegistry(tmp_path / "bento" / "model")
    copied = stocked.copy(artifact, target)
    assert (copied.identity, copied.version) == (artifact.identity, 2)
    assert target.resolve(None) == copied
    assert copied.verify() == []
    assert {file: copied.read(file) for file in FILES} == make_files("b")
    assert len(blobs(target)) == len(FILES) + 2
    assert stocked.copy(artifact, target) == copied  # a second time changes nothing
    assert len(target.models()) == 1


def test_a_copy_keeps_the_versions_of_its_target(stocked: LocalRegistry, tmp_path: Path) -> None:
    """A folder whose `digits:1` is another model is refused, and keeps it."""
    target = LocalRegistry(tmp_path / "target")
    target.add("digits", make_files("other"))
    with pytest.raises(RegistryError, match="versions never change"):
        stocked.copy(stocked.resolve("digits:1"), target)
    assert target.resolve("digits:1").read(MODEL) == b"other"


def test_a_damaged_model_is_not_copied(stocked: LocalRegistry, tmp_path: Path) -> None:
    """Copying checks every file."""
    artifact = stocked.resolve("digits:2")
    blob_path(stocked, artifact.files[CARD].digest).write_bytes(b"damaged")
    target = LocalRegistry(tmp_path / "target")
    with pytest.raises(DamagedArtifact):
        stocked.copy(artifact, target)
    assert target.models() == []
