"""Artifacts: files that are checked at every read, and damage that is named with a remedy."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from classifier.artifact import CARD, CONFIG, EVALUATION, FILES, GOLDEN, MODEL
from classifier.errors import DamagedArtifact
from registry.oci.manifest import Manifest, describe
from tests.registry.artifacts import blob_path, make_files, put

if TYPE_CHECKING:
    from registry import LocalRegistry


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_read_damaged(registry: LocalRegistry, file: str) -> None:
    """One flipped bit in any file: the read fails and names model, file and remedy; the other files still read."""
    artifact = registry.add("digits", make_files()).artifact
    path = blob_path(registry, artifact.files[file].digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifact, match=f"'digits:1' is damaged: {file}: .*export it again.*models rm digits:1"):
        artifact.read(file)
    assert all(artifact.read(other) for other in FILES if other != file)
    [problem] = artifact.verify()
    assert file in problem


@pytest.mark.parametrize("file", [CONFIG, EVALUATION, GOLDEN, CARD])
def test_a_file_of_a_gigabyte_is_not_read(registry: LocalRegistry, file: str) -> None:
    """The manifest says how large it is; the sentence comes before a byte is read."""
    artifact = registry.add("digits", make_files()).artifact
    was = artifact.files[file]
    huge = replace(was, size=2**30, digest="sha256:" + "0" * 64)
    with blob_path(registry, huge.digest).open("wb") as blob:
        blob.truncate(huge.size)  # takes no space on the disk
    manifest = replace(
        artifact.manifest, layers=tuple(huge if layer == was else layer for layer in artifact.manifest.layers)
    )
    put(registry, "digits:2", manifest, artifact.descriptor.media_type)
    large = registry.resolve("digits:2")
    tracemalloc.start()
    with pytest.raises(
        DamagedArtifact, match=rf"'digits:2' is damaged: {file} has 1,073,741,824 bytes, over the limit"
    ):
        large.read(file)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_flipped_bit_in_the_manifest_is_found(registry: LocalRegistry) -> None:
    """A reference resolves to the manifest with its digest, or to an error."""
    artifact = registry.add("digits", make_files()).artifact
    path = blob_path(registry, artifact.digest)
    path.write_bytes(path.read_bytes().replace(b"model.onnx", b"model.0nnx"))
    for reference in ("digits:1", None, artifact.identity):
        with pytest.raises(DamagedArtifact, match="'digits:1' is damaged"):
            registry.resolve(reference)
    assert [model.reference for model in registry.models()] == ["digits:1"]


def test_verify_finds_a_graph_that_the_config_promises(registry: LocalRegistry) -> None:
    """Whole files are not enough: no allowed precision may lack its graph."""
    files = make_files()
    del files[MODEL]
    artifact = registry.add("digits", files).artifact
    [problem] = artifact.verify()
    assert "it has no model.onnx, which its config names" in problem
    with pytest.raises(DamagedArtifact, match=r"it has no model\.onnx"):
        artifact.read(MODEL)


def test_verify_finds_a_config_of_a_newer_release(registry: LocalRegistry) -> None:
    """A whole config that this release can't use is found, with the right remedy."""
    artifact = registry.add("digits", make_files()).artifact
    newer = make_files()[CONFIG].replace(b'"schema_version": 1', b'"schema_version": 99')
    descriptor = describe(newer, "application/json", annotations=dict(artifact.files[CONFIG].annotations))
    blob_path(registry, descriptor.digest).write_bytes(newer)
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
