"""Manifests: the ModelPack format, in bytes that depend on nothing but the files."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest

from classifier.artifact import CARD, CONFIG, EVALUATION, FILES, GOLDEN, MODEL
from classifier.errors import DamagedArtifact
from registry.oci.manifest import pack
from tests.registry.artifacts import make_files


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """As `additionalProperties: false` in ModelPack's `schema/config-schema.json`."""


class Capabilities(_Strict):
    inputTypes: list[Literal["text", "image", "audio", "video", "embedding", "other"]]  # noqa: N815 - the field's name
    outputTypes: list[Literal["text", "image", "audio", "video", "embedding", "other"]]  # noqa: N815 - the field's name


class Technical(_Strict):
    architecture: str
    format: str
    precision: str
    capabilities: Capabilities


class General(_Strict):
    name: str
    family: str


class Modelfs(_Strict):
    type: Literal["layers"]
    diffIds: list[str]  # noqa: N815 - the field's name


class ModelPackConfig(_Strict):
    """The fields that Tandem uses of `config-schema.json`; it has no others."""

    descriptor: General
    config: Technical
    modelfs: Modelfs


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    descriptor, blobs = pack(files)
    manifest: dict[str, Any] = json.loads(blobs[descriptor.digest])
    return manifest


def test_the_manifest_is_a_modelpack() -> None:
    """Other tools recognise the artifact by the types of the CNCF ModelPack specification."""
    manifest = manifest_of(make_files())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kind = "application/vnd.cncf.model."
    assert {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in manifest["layers"]} == {
        MODEL: kind + "weight.v1.raw",
        CONFIG: kind + "weight.config.v1.raw",
        EVALUATION: kind + "doc.v1.raw",
        GOLDEN: kind + "dataset.v1.raw",
        CARD: kind + "doc.v1.raw",
    }


def test_the_config_blob_follows_the_modelpack_schema() -> None:
    """The config blob has the fields of ModelPack's schema and no others, and a diffId per layer."""
    descriptor, blobs = pack(make_files())
    manifest = json.loads(blobs[descriptor.digest])
    config = msgspec.json.decode(blobs[manifest["config"]["digest"]], type=ModelPackConfig)
    assert (config.descriptor.name, config.config.architecture) == ("digits", "small_cnn")
    assert (config.config.format, config.config.precision) == ("onnx", "float32")
    assert config.modelfs.diffIds == [layer["digest"] for layer in manifest["layers"]]


def test_the_same_files_have_the_same_digest() -> None:
    """The digest depends on the files, not on their order, and stays the same across releases."""
    files = make_files()
    assert pack(files) == pack(dict(reversed(files.items())))
    # Pinned: another digest would give every model that is exported again a version that nothing changed in.
    assert pack(files)[0].digest == "sha256:ac5b84e5399be6b563e6f49ec9575f1355dbe058b073a5f4ba760c3cdcf98193"
    assert list(manifest_files(files)) == list(FILES)


def manifest_files(files: dict[str, bytes]) -> list[str]:
    return [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest_of(files)["layers"]]


@pytest.mark.parametrize("file", FILES)
def test_every_file_counts(file: str) -> None:
    """Changing a single byte of any file makes another artifact."""
    files = make_files()
    changed = {**files, file: files[file] + b" "}
    assert pack(changed)[0].digest != pack(files)[0].digest


def test_further_graphs_are_weights() -> None:
    """Graphs of other precisions come after the known files, as weights."""
    manifest = manifest_of({"model.int8.onnx": b"int8", **make_files()})
    assert manifest["layers"][-1]["annotations"]["org.cncf.model.filepath"] == "model.int8.onnx"
    assert manifest["layers"][-1]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"


@pytest.mark.parametrize("config", [None, b"", b"{", b"[]", b'{"name": "digits"}'])
def test_an_artifact_without_a_usable_config_is_refused(config: bytes | None) -> None:
    """Files that could never be opened get no version."""
    files = make_files()
    files.pop(CONFIG)
    if config is not None:
        files[CONFIG] = config
    with pytest.raises(DamagedArtifact, match=r"config\.json"):
        pack(files)
