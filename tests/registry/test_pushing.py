"""Push: what is sent, what is refused, and the version that a model gets."""

from __future__ import annotations

import hashlib
import json

import pytest

from classifier.artifact import CARD, MODEL
from classifier.errors import DamagedArtifact, ModelNotFound, RegistryError
from registry import LocalRegistry, Reference, pull, push
from registry.remote.models import RemoteModels
from tests.registry.artifacts import make_files
from tests.registry.servers import Proxy, needs_registry, needs_skopeo, skopeo

pytestmark = needs_registry


def test_a_second_push_sends_nothing(registry: LocalRegistry, proxy: Proxy, remote: str) -> None:
    """Unchanged: one request for the tag. With another model card: the card, and the config blob that lists it."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    artifact = registry.add("digits", make_files()).artifact
    assert len(push("digits:1", target, registry).sent) == len(artifact.files) + 1
    proxy.requests.clear()
    assert push("digits:1", target, registry).sent == ()
    assert [request.method for request in proxy.requests] == ["GET"]
    registry.add("digits", {**make_files(), CARD: b"# A better card\n"})
    proxy.requests.clear()
    assert sorted(push("digits:2", target, registry).sent)[0] == len(b"# A better card\n")
    assert len([request for request in proxy.sent("PUT") if "/blobs/" in request.path]) == 2


def test_a_version_is_never_overwritten(registry: LocalRegistry, remote: str) -> None:
    """The refusal says which number is free; nothing is sent. An alias moves."""
    for graph in "ab":
        registry.add("digits", make_files(graph))
    push("digits:1", remote, registry)
    push("digits:2", f"{remote}:4", registry)
    with pytest.raises(RegistryError, match=f"'{remote}:1' is sha256:.* versions never change: push to '{remote}:5'"):
        push("digits:2", f"{remote}:1", registry)
    for version in ("digits:1", "digits:2"):
        push(version, f"{remote}:production", registry)
    models = RemoteModels(Reference.parse(remote)).models()
    assert [(model.version, model.aliases) for model in models] == [(1, ()), (4, ("production",))]


def test_what_has_no_version_gets_the_next_that_is_free(
    registry: LocalRegistry, there: LocalRegistry, remote: str
) -> None:
    """A copy that was pulled by digest becomes version 1 in another repository, the next one version 2."""
    for graph in "ab":
        pushed = push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
        target = f"{remote}-next"
        again = push(f"{remote}@{pushed.digest}", target, there)
        assert str(again.reference) == f"{target}:{'ab'.index(graph) + 1}"


def test_blobs_are_mounted_from_the_repository_they_came_from(
    there: LocalRegistry, registry: LocalRegistry, proxy: Proxy, remote: str
) -> None:
    """From staging to production on one registry, no byte is sent."""
    staging = f"{proxy.host}/{remote.partition('/')[2]}"
    push(registry.add("digits", make_files()).artifact.reference, staging, registry)
    proxy.requests.clear()
    pushed = push(f"{staging}:1", f"{staging}-production", there)
    assert pushed.sent == ()
    assert pushed.mounted == 6
    assert [request.path.endswith("/manifests/1") for request in proxy.sent("PUT")] == [True]


def test_a_damaged_file_is_not_pushed(registry: LocalRegistry, remote: str) -> None:
    """The registry has no such model afterwards, under any digest."""
    artifact = registry.add("digits", make_files()).artifact
    registry.layout.blob_path(artifact.files[MODEL].digest).write_bytes(b"grapf")
    with pytest.raises(DamagedArtifact, match="model 'digits:1' is damaged: the contents of"):
        push("digits:1", remote, registry)
    with pytest.raises(ModelNotFound):
        RemoteModels(Reference.parse(remote)).models()


@needs_skopeo
def test_skopeo_reads_what_was_pushed_and_pulled(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """The manifest in the registry and in the layout matches the digest, artifactType and all."""
    pushed = push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    pull(pushed.reference, there)
    for source in (f"docker://{remote}:1", f"oci:{there.root}:{remote}:1"):
        tls = ["--tls-verify=false"] if source.startswith("docker") else []
        raw = skopeo("inspect", "--raw", *tls, source)
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == pushed.digest
        assert json.loads(raw)["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
