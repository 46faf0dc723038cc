"""The local registry: versions that never change, aliases that move, and references that find them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from classifier.artifact import CARD, CONFIG, FILES, MODEL
from classifier.errors import (
    DamagedArtifact,
    InvalidReference,
    ModelNotFound,
    ModelNotNamed,
    RegistryError,
)
from classifier.types import to_json
from registry import LocalRegistry
from registry.oci.manifest import Descriptor, Index, Manifest, describe
from tests.registry.artifacts import CONFIG_OF_DIGITS, make_files

OTHER_DIGEST = "sha256:" + "0" * 64


def blobs(registry: LocalRegistry) -> set[str]:
    return {path.name for path in (registry.root / "blobs" / "sha256").iterdir()}


def blob(registry: LocalRegistry, digest: str) -> Path:
    return registry.root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def put(registry: LocalRegistry, entry: str | None, manifest: object, media_type: str) -> Descriptor:
    """Store a manifest under any name, as another tool may."""
    data = to_json(manifest)
    descriptor = describe(data, media_type)
    blob(registry, descriptor.digest).write_bytes(data)
    index = json.loads((registry.root / "index.json").read_bytes())
    annotations = {} if entry is None else {"org.opencontainers.image.ref.name": entry}
    index["manifests"].append(
        {"mediaType": media_type, "digest": descriptor.digest, "size": len(data), "annotations": annotations}
    )
    (registry.root / "index.json").write_bytes(json.dumps(index).encode())
    return descriptor


# Adding


def test_what_is_read_is_what_was_added(registry: LocalRegistry) -> None:
    """Every file comes back as it was, in the order of the manifest."""
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
    """An export that is repeated is recognised, also after others came in between."""
    first = registry.add("digits", make_files("a")).artifact
    registry.add("digits", make_files("b"))
    before = (registry.root / "index.json").read_bytes()
    again = registry.add("digits", make_files("a"))
    assert (again.created, again.artifact) == (False, first)
    assert (registry.root / "index.json").read_bytes() == before


def test_the_number_of_a_removed_version_is_not_given_again(registry: LocalRegistry) -> None:
    """Who wrote `digits:2` down never gets another model under it, not even where it was the highest."""
    for graph in "ab":
        registry.add("digits", make_files(graph))
    registry.remove("digits:2")
    assert registry.add("digits", make_files("b")).artifact.version == 3
    registry.remove("digits:3")
    registry.remove("digits:1")
    assert registry.add("digits", make_files("c")).artifact.version == 4


@pytest.mark.parametrize("name", ["digits:3", f"digits@{OTHER_DIGEST}", "localhost:5000/digits", "Digits", "", "a b"])
def test_a_new_model_wants_a_name_alone(registry: LocalRegistry, name: str) -> None:
    """The registry numbers a model; a name with more than that is refused before anything is written."""
    with pytest.raises(InvalidReference):
        registry.add(name, make_files())
    assert not registry.root.exists()


def test_adding_a_damaged_artifact_again_repairs_it(registry: LocalRegistry) -> None:
    """The remedy that the error names works: to export the model again."""
    artifact = registry.add("digits", make_files()).artifact
    for digest in [artifact.digest, artifact.files[MODEL].digest]:
        blob(registry, digest).write_bytes(b"damaged")
    with pytest.raises(DamagedArtifact, match="export it again"):
        artifact.read(MODEL)
    assert not registry.add("digits", make_files()).created
    assert registry.resolve("digits:1").verify() == []


# Resolving


@pytest.fixture
def stocked(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry with digits:1 (candidate), digits:2 and digits:3."""
    for graph in "abc":
        registry.add("digits", make_files(graph))
    registry.tag("digits:1", "candidate")
    return registry


def test_a_bare_name_means_production_else_the_highest_version(stocked: LocalRegistry) -> None:
    """The highest version, by number, until somebody says which one is in production."""
    for graph in range(3, 10):
        stocked.add("digits", make_files(str(graph)))
    assert stocked.resolve("digits").version == 10
    stocked.tag("digits:2", "production")
    assert stocked.resolve("digits").version == 2


def test_every_form_of_reference_resolves(stocked: LocalRegistry) -> None:
    """A version by number, alias, digest, and number or alias with the digest that they must have."""
    digest = stocked.resolve("digits:1").digest
    for reference in ("digits:1", "digits:candidate", f"digits@{digest}", f"digits:1@{digest}",
                      f"digits:candidate@{digest}"):  # fmt: skip
        artifact = stocked.resolve(reference)
        assert (artifact.version, artifact.digest, artifact.aliases) == (1, digest, ("candidate",))


def test_no_reference_means_the_only_model(stocked: LocalRegistry) -> None:
    """With one model in the registry nobody has to name it; with two, the error lists them."""
    assert stocked.resolve(None).version == 3
    stocked.add("fashion", make_files())
    with pytest.raises(ModelNotNamed, match=r"several models \(digits, fashion\).*--model or TANDEM_MODEL"):
        stocked.resolve(None)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digits:4", r"'digits:4' is not in the registry .*'digits' has 1, candidate, 2, 3; 'tandem models list'"),
        ("digits:production", "'digits' has 1, candidate, 2, 3"),
        ("digits:03", "'digits' has 1"),
        ("digit", "did you mean 'digits'"),
        ("digist:2", "did you mean 'digits'"),
        ("flowers", "'flowers' is not in the registry .*: 'tandem models list'"),
        (f"digits@{OTHER_DIGEST}", "is not in the registry"),
        (f"digits:2@{OTHER_DIGEST}", f"'digits:2' in the registry .* is sha256:[0-9a-f]{{64}}, not {OTHER_DIGEST}"),
    ],
)
def test_an_unknown_reference_says_what_there_is(stocked: LocalRegistry, reference: str, message: str) -> None:
    """The error has the next step in it: the versions, the name that was meant, the digest that was found."""
    with pytest.raises(ModelNotFound, match=message):
        stocked.resolve(reference)


@pytest.mark.parametrize("reference", [None, "digits", "digits:3"])
def test_an_empty_registry_says_how_to_fill_it(registry: LocalRegistry, reference: str | None) -> None:
    """The first error that a newcomer meets has the two commands that make a model."""
    with pytest.raises(ModelNotFound, match=r"holds no model yet; 'tandem train digits .*'tandem export"):
        registry.resolve(reference)


def test_a_remote_reference_without_a_copy_says_how_to_get_one(registry: LocalRegistry) -> None:
    """The local registry answers for copies alone, and asks nobody."""
    with pytest.raises(ModelNotFound, match=r"'tandem models pull ghcr.io/acme/digits:3' fetches it"):
        registry.resolve("ghcr.io/acme/digits:3")


def test_tandem_home_places_the_default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is below TANDEM_HOME; where that is unset or empty, below ~/.tandem."""
    monkeypatch.setenv("HOME", "/home/ada")
    for value, root in [("/data/tandem", "/data/tandem/registry"), ("~/t", "/home/ada/t/registry"),
                        ("", "/home/ada/.tandem/registry")]:  # fmt: skip
        monkeypatch.setenv("TANDEM_HOME", value)
        assert LocalRegistry.default().root == Path(root)


# Tagging


def test_an_alias_moves_and_stands_on_one_version(stocked: LocalRegistry) -> None:
    """Putting `production` on a version takes it off the one before."""
    stocked.tag("digits:1", "production")
    stocked.tag("digits:3", "production")
    assert [artifact.aliases for artifact in stocked.models()] == [("candidate",), (), ("production",)]


def test_a_version_gets_an_alias_through_another_alias(stocked: LocalRegistry) -> None:
    """`tag digits:candidate production` promotes what was tried."""
    assert stocked.tag("digits:candidate", "production", "live").aliases == ("candidate", "live", "production")


def test_a_version_can_t_be_moved(stocked: LocalRegistry) -> None:
    """No alias is a number, so no tag makes `digits:2` mean another model; one wrong alias and none is set."""
    with pytest.raises(InvalidReference, match="'2' can't be an alias"):
        stocked.tag("digits:3", "production", "2")
    assert stocked.resolve("digits:3").aliases == ()


def test_an_unknown_model_can_t_be_tagged(registry: LocalRegistry) -> None:
    """The error is about the model, and nothing was written."""
    with pytest.raises(ModelNotFound):
        registry.tag("digits:1", "production")
    assert not registry.root.exists()


# Removing


def test_removing_a_version_frees_what_it_alone_used(stocked: LocalRegistry) -> None:
    """Its manifest and graph go; config, card and golden set, which others use as well, stay."""
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


def test_removing_the_last_model_leaves_no_blob(registry: LocalRegistry) -> None:
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
    """What is in production doesn't vanish by a typing mistake."""
    reference = form.format(digest=stocked.resolve("digits:1").digest)
    with pytest.raises(RegistryError, match=r"'digits:1' is candidate: .* tag digits:… candidate' first.*--force"):
        stocked.remove(reference)
    assert stocked.resolve("digits:candidate").version == 1
    assert stocked.remove(reference, force=True).references == ("digits:1", "digits:candidate")
    with pytest.raises(ModelNotFound):
        stocked.resolve("digits:candidate")


def test_a_bare_name_is_not_removed(stocked: LocalRegistry) -> None:
    """Where it stands for any of three versions, the one to remove has to be named."""
    with pytest.raises(InvalidReference, match="name one, 'digits:3'"):
        stocked.remove("digits")
    assert len(stocked.models()) == 3


@pytest.mark.parametrize("file", [None, MODEL, CONFIG])
def test_a_damaged_model_can_be_removed(stocked: LocalRegistry, file: str | None) -> None:
    """The other remedy that the error names works too, for a damaged manifest as for a damaged file."""
    artifact = stocked.resolve("digits:2")
    blob(stocked, artifact.digest if file is None else artifact.files[file].digest).write_bytes(b"damaged")
    assert stocked.find("digits:2").verify() != []
    stocked.remove("digits:2")
    if file != CONFIG:  # which the other versions share
        assert all(artifact.verify() == [] for artifact in stocked.models())
    assert [artifact.version for artifact in stocked.models()] == [1, 3]


def test_nothing_of_a_damaged_neighbour_is_removed(stocked: LocalRegistry) -> None:
    """Where a manifest can't say which files it uses, removing another model keeps all files that it might."""
    manifest = blob(stocked, stocked.resolve("digits:1").digest)
    whole = manifest.read_bytes()
    manifest.write_bytes(b"damaged")
    stocked.remove("digits:2")
    stocked.remove("digits:3")
    manifest.write_bytes(whole)
    assert stocked.resolve("digits:1").verify() == []


# Damage


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_read_damaged(registry: LocalRegistry, file: str) -> None:
    """One flipped bit in any file: the read fails and names model, file and remedy; the other files still read."""
    artifact = registry.add("digits", make_files()).artifact
    path = blob(registry, artifact.files[file].digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifact, match=f"'digits:1' is damaged: {file}: .*export it again.*models rm digits:1"):
        artifact.read(file)
    assert all(artifact.read(other) for other in FILES if other != file)
    [problem] = artifact.verify()
    assert file in problem


def test_a_flipped_bit_in_the_manifest_is_found(registry: LocalRegistry) -> None:
    """A reference resolves to the very manifest that its digest names, or to an error."""
    artifact = registry.add("digits", make_files()).artifact
    path = blob(registry, artifact.digest)
    path.write_bytes(path.read_bytes().replace(b"model.onnx", b"model.0nnx"))
    for reference in ("digits:1", None, artifact.identity):
        with pytest.raises(DamagedArtifact, match="'digits:1' is damaged"):
            registry.resolve(reference)
    assert [model.reference for model in registry.models()] == ["digits:1"]


def test_verify_finds_a_graph_that_the_config_promises(registry: LocalRegistry) -> None:
    """Whole files are not enough: the graphs of all allowed precisions have to be there."""
    files = make_files()
    del files[MODEL]
    artifact = registry.add("digits", files).artifact
    [problem] = artifact.verify()
    assert "it has no model.onnx, which its config names" in problem
    with pytest.raises(DamagedArtifact, match=r"it has no model\.onnx"):
        artifact.read(MODEL)


def test_verify_finds_a_config_of_a_newer_release(registry: LocalRegistry) -> None:
    """A config that is whole and can't be used is found, and the remedy is the right one."""
    artifact = registry.add("digits", make_files()).artifact
    newer = make_files()[CONFIG].replace(b'"schema_version": 1', b'"schema_version": 99')
    descriptor = describe(newer, "application/json", annotations=dict(artifact.files[CONFIG].annotations))
    blob(registry, descriptor.digest).write_bytes(newer)
    layers = [descriptor if layer == artifact.files[CONFIG] else layer for layer in artifact.manifest.layers]
    manifest = Manifest(
        schema_version=2,
        artifact_type=artifact.manifest.artifact_type,
        config=artifact.manifest.config,
        layers=tuple(layers),
    )
    put(registry, "digits:2", manifest, artifact.descriptor.media_type)
    [problem] = registry.resolve("digits:2").verify()
    assert "update Tandem" in problem


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
    """Images in the same folder are neither models nor in the way of the only model."""
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
        assert blob(shared_folder, str(entry["digest"])).exists()


def test_a_model_inside_of_an_index_keeps_its_files(registry: LocalRegistry) -> None:
    """An index of another tool that lists a model's manifest counts as a use of all its files."""
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
    """An index that names a version twice, which Tandem never writes, still has one answer."""
    other = stocked.resolve("digits:3")
    put(stocked, "digits:1", other.manifest, other.descriptor.media_type)
    assert stocked.resolve("digits:1").digest != other.digest
    assert stocked.resolve("digits:3") == other


# Copying


def test_a_copy_is_a_registry_with_one_model(stocked: LocalRegistry, tmp_path: Path) -> None:
    """What a Bento carries: the same digest and version, and nothing of the other versions."""
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
    """A copy is checked while it is made."""
    artifact = stocked.resolve("digits:2")
    blob(stocked, artifact.files[CARD].digest).write_bytes(b"damaged")
    target = LocalRegistry(tmp_path / "target")
    with pytest.raises(DamagedArtifact):
        stocked.copy(artifact, target)
    assert target.models() == []
