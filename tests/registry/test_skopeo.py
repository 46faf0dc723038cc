"""skopeo, which knows nothing of Tandem, reads the registry, carries models out of it and back in."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from classifier.errors import ModelNotFound
from registry import LocalRegistry
from tests.registry.artifacts import make_files
from tests.registry.servers import needs_registry, needs_skopeo, skopeo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_skopeo


@pytest.fixture
def stocked(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry with digits:1 (production) and digits:3; 2 was removed."""
    for graph in "abc":
        registry.add("digits", make_files(graph))
    registry.tag("digits:1", "production")
    registry.remove("digits:2")
    return registry


@pytest.mark.parametrize("reference", ["digits:1", "digits:3", "digits:production"])
def test_skopeo_reads_the_registry(stocked: LocalRegistry, reference: str) -> None:
    """`skopeo inspect --raw` prints the manifest that the digest names, by version and by alias."""
    raw = skopeo("inspect", "--raw", f"oci:{stocked.root}:{reference}")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == stocked.resolve(reference).digest
    assert json.loads(raw)["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


def test_a_model_goes_out_and_comes_back(stocked: LocalRegistry, tmp_path: Path) -> None:
    """Through another OCI layout and back: the digest is the same, and every byte is there."""
    digest = stocked.resolve("digits:3").digest
    skopeo("copy", f"oci:{stocked.root}:digits:3", f"oci:{tmp_path}/elsewhere:acme/digits:3")
    elsewhere = LocalRegistry(tmp_path / "elsewhere")
    assert elsewhere.resolve(None).digest == digest
    assert elsewhere.resolve("acme/digits:3").verify() == []
    stocked.remove("digits:3")
    skopeo("copy", f"oci:{tmp_path}/elsewhere:acme/digits:3", f"oci:{stocked.root}:digits:3")
    assert stocked.resolve("digits:3").digest == digest
    assert stocked.resolve("digits:3").verify() == []


def test_skopeo_leaves_the_rest_of_the_registry_as_it_is(stocked: LocalRegistry, tmp_path: Path) -> None:
    """Copying in keeps versions and aliases, and the numbers of removed versions."""
    source = LocalRegistry(tmp_path / "source")
    source.add("fashion", make_files("fashion"))
    stocked.remove("digits:3")
    before = {model.reference: (model.digest, model.aliases) for model in stocked.models()}
    skopeo("copy", f"oci:{source.root}:fashion:1", f"oci:{stocked.root}:fashion:7")
    after = {model.reference: (model.digest, model.aliases) for model in stocked.models()}
    assert after == {**before, "fashion:7": (source.resolve("fashion").digest, ())}
    assert stocked.add("fashion", make_files("new")).artifact.version == 8
    assert stocked.add("digits", make_files("new")).artifact.version == 4


def test_a_digest_that_is_there_can_be_copied_in_under_another_version(stocked: LocalRegistry) -> None:
    """One digest with two versions: both name it, the lower is its version, and removing one keeps the other."""
    skopeo("copy", f"oci:{stocked.root}:digits:1", f"oci:{stocked.root}:digits:9")
    assert stocked.resolve("digits:9") == stocked.resolve("digits:1")
    assert stocked.resolve("digits:9").version == 1
    assert stocked.remove("digits:9").references == ("digits:9",)
    assert stocked.resolve("digits:1").verify() == []
    with pytest.raises(ModelNotFound):
        stocked.resolve("digits:9")


@needs_registry
def test_a_model_travels_through_a_remote_registry(stocked: LocalRegistry, remote: str, tmp_path: Path) -> None:
    """There and back without Tandem, with the same digest."""
    digest = stocked.resolve("digits:1").digest
    skopeo("copy", "--dest-tls-verify=false", f"oci:{stocked.root}:digits:1", f"docker://{remote}:1")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{remote}:1")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{remote}:1", f"oci:{tmp_path}/home2:digits:1")
    assert LocalRegistry(tmp_path / "home2").resolve("digits").digest == digest
    assert LocalRegistry(tmp_path / "home2").resolve("digits").verify() == []
