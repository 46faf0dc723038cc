"""oras, the library of the ORAS project, knows nothing of Tandem: it reads what was pushed, and attaches to it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import oras.client
import oras.oci
import pytest

from classifier.errors import ModelNotFound
from registry import LocalRegistry, Reference, pull, push
from registry.oci.manifest import MANIFEST_TYPE
from registry.oci.referrers import read_referrers
from tests.registry.artifacts import make_files
from tests.registry.servers import needs_registry, run_proxy

if TYPE_CHECKING:
    from tests.conftest import Tandem

pytestmark = needs_registry


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> oras.client.OrasClient:
    """Return a client that speaks HTTP, without credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return oras.client.OrasClient(insecure=True)


def test_oras_pulls_what_was_pushed(
    registry: LocalRegistry, remote: str, client: oras.client.OrasClient, tmp_path: Path
) -> None:
    """Every file under its name, byte for byte; and the manifest says what kind of artifact it is."""
    push(registry.add("digits", make_files(b"graph" * 100_000)).artifact.reference, remote, registry)
    pulled = client.pull(target=f"{remote}:1", outdir=str(tmp_path / "pulled"))
    files = {path.name: path.read_bytes() for path in map(Path, pulled)}
    assert files == make_files(b"graph" * 100_000)
    manifest = client.get_manifest(f"{remote}:1")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert client.get_tags(remote) == ["1"]


def test_what_oras_attaches_travels_with_the_model(
    registry: LocalRegistry,
    remote_host: str,
    remote: str,
    client: oras.client.OrasClient,
    tmp_path: Path,
    tandem: Tandem,
) -> None:
    """Only its subject makes it a referrer; without an artifact type, its kind is its config's type."""
    with run_proxy(remote_host, referrers_api=True) as proxy:
        target = f"{proxy.host}/{remote.partition('/')[2]}"
        digest = push(registry.add("digits", make_files()).artifact.reference, target, registry).digest
        size = registry.resolve("digits").descriptor.size
        (tmp_path / "sbom.json").write_text('{"spdxVersion": "SPDX-2.3"}')
        client.push(
            target=f"{target}:sbom",
            files=[f"{tmp_path}/sbom.json:application/spdx+json"],
            disable_path_validation=True,
            subject=oras.oci.Subject("application/vnd.oci.image.manifest.v1+json", digest, size),
        )
        home = {"TANDEM_HOME": str(tmp_path / "there")}
        shown = [tandem("models", "show", f"{target}:1", env=home).stdout]
        tandem("models", "pull", f"{target}:1", env=home)
        shown.append(tandem("models", "show", f"{target}@{digest}", env=home).stdout)
        for printed in shown:
            [line] = printed.partition("REFERRER")[2].splitlines()[1:]
            assert line.startswith("application/vnd.unknown.config.v1+json")
        blob = hashlib.sha256((tmp_path / "sbom.json").read_bytes()).hexdigest()
        assert (tmp_path / "there" / "registry" / "blobs" / "sha256" / blob).exists()


def test_what_is_too_large_to_travel_stops_no_pull(
    registry: LocalRegistry,
    remote_host: str,
    remote: str,
    client: oras.client.OrasClient,
    tmp_path: Path,
    tandem: Tandem,
) -> None:
    """Anyone may attach anything: a file over 4 MiB is listed and not fetched."""
    with run_proxy(remote_host, referrers_api=True) as proxy:
        target = f"{proxy.host}/{remote.partition('/')[2]}"
        digest = push(registry.add("digits", make_files()).artifact.reference, target, registry).digest
        (tmp_path / "report.bin").write_bytes(bytes(5 << 20))
        client.push(
            target=f"{target}:report",
            files=[f"{tmp_path}/report.bin:application/octet-stream"],
            disable_path_validation=True,
            subject=oras.oci.Subject(MANIFEST_TYPE, digest, registry.resolve("digits").descriptor.size),
        )
        home = {"TANDEM_HOME": str(tmp_path / "there")}
        assert "application/vnd.unknown.config.v1+json" in tandem("models", "show", f"{target}:1", env=home).stdout
        pulled = tandem("models", "pull", f"{target}:1", env=home)
        assert pulled.stdout == f"{target}:1 is {digest}\n"
        assert "has a file over 4 MiB, and stays there" in pulled.stderr
        there = LocalRegistry(tmp_path / "there" / "registry")
        assert read_referrers(digest, there.layout) == []


def test_what_oras_pushed_is_no_model(
    registry: LocalRegistry, remote: str, client: oras.client.OrasClient, tmp_path: Path
) -> None:
    """Any file can be an artifact; one sentence names its type."""
    (tmp_path / "notes.txt").write_text("notes")
    client.push(target=f"{remote}:1", files=[str(tmp_path / "notes.txt")], disable_path_validation=True)
    with pytest.raises(ModelNotFound, match="is not a model that Tandem exported but"):
        pull(Reference.parse(f"{remote}:1"), registry)
