"""Pull: what is fetched, what is refused, and several processes at once."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import CONFIG, MODEL
from classifier.errors import DamagedArtifact, ModelNotFound, RegistryError
from registry import LocalRegistry, Reference, fetch_model, pull, push
from registry.oci.layout import Layout
from registry.oci.manifest import FILEPATH, MANIFEST_TYPE
from registry.remote.models import RemoteModels
from tests.conftest import ROOT
from tests.registry.artifacts import make_files, put
from tests.registry.processes import IMPORTS, start, wait_for
from tests.registry.servers import Proxy, free_port, needs_registry, needs_skopeo, run_proxy, serve, skopeo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

pytestmark = needs_registry


def has_ipv6() -> bool:
    """Return whether `::1` is an address of this machine."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_model_keeps_version_digest_and_files(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """Pushed without a tag, it keeps its version; pulled, it has its whole name and the same digest."""
    artifact = registry.add("digits", make_files()).artifact
    pushed = push("digits", remote, registry)
    assert str(pushed.reference) == f"{remote}:1"
    copy = pull(pushed.reference, there)
    assert (copy.identity, copy.version) == (f"{remote}@{artifact.digest}", 1)
    assert {file: copy.read(file) for file in copy.files} == make_files()
    assert there.resolve(f"{remote}:1") == there.resolve(None) == copy


@needs_skopeo
def test_what_skopeo_pushed_can_be_pulled(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """An artifact that another tool pushed is the same."""
    digest = registry.add("digits", make_files()).artifact.digest
    skopeo("copy", "--dest-tls-verify=false", f"oci:{registry.root}:digits:1", f"docker://{remote}:4")
    assert pull(Reference.parse(f"{remote}:4"), there).digest == digest


def test_a_damaged_copy_is_fetched_again(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """`pull` reads what is there, and replaces what is not what its digest says."""
    pushed = push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    copy = pull(pushed.reference, there)
    there.layout.blob_path(copy.files[MODEL].digest).write_bytes(b"grapf")
    [problem] = copy.verify()
    assert f"'tandem models pull {remote}:1'" in problem
    assert pull(pushed.reference, there).verify() == []


def test_a_version_that_changed_behind_our_back_is_refused(
    registry: LocalRegistry, there: LocalRegistry, remote: str
) -> None:
    """Another tool can overwrite a version; a pull over a copy of the first one is refused."""
    for graph in "ab":
        registry.add("digits", make_files(graph))
    pull(push("digits:1", f"{remote}:1", registry).reference, there)
    push("digits:2", f"{remote}:2", registry)
    models = RemoteModels(Reference.parse(remote))
    two = models.resolve(Reference.parse(f"{remote}:2"))
    models.repository.put_manifest("1", two.layout.read_blob(two.descriptor), two.descriptor.media_type)
    with pytest.raises(RegistryError, match="versions never change: ask who pushed it"):
        pull(Reference.parse(f"{remote}:1"), there)


def test_what_is_no_model_is_said(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """An image index and a missing tag each give one sentence with the next step."""
    index = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    RemoteModels(Reference.parse(remote)).repository.put_manifest(
        "image", index, "application/vnd.oci.image.index.v1+json"
    )
    with pytest.raises(ModelNotFound, match=r"not a model that Tandem exported but application/vnd.oci.image.index"):
        pull(Reference.parse(f"{remote}:image"), there)
    with pytest.raises(ModelNotFound, match=f"'tandem models list {remote}' shows what is"):
        pull(Reference.parse(f"{remote}:9"), there)
    assert [model.version for model in RemoteModels(Reference.parse(remote)).models()] == [1]


@needs_skopeo
def test_a_full_disk(registry: LocalRegistry, remote: str, tmp_path: Path) -> None:
    """A real one, of 400 kB: one sentence, nothing has the model's name, and skopeo reads what is there.

    With more room the pull goes on where it was. In a mount namespace of its own, so that nobody has to be root.
    """
    for graph in (b"small", b"x" * 500_000):
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
    script = f"""
import subprocess
from classifier.errors import RegistryUnwritable
from registry import Reference, pull
pull(Reference.parse("{remote}:1"), registry)
try:
    pull(Reference.parse("{remote}:2"), registry)
except RegistryUnwritable as error:
    assert "(No space left on device): free some space" in str(error), error
else:
    raise AssertionError("the disk was not full")
assert [model.version for model in registry.models()] == [1]
assert registry.models()[0].verify() == []
layout = f"oci:{{registry.root}}:{remote}:1"
subprocess.run(["skopeo", "inspect", "--raw", layout], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["mount", "-o", "remount,size=4m", sys.argv[1]], check=True)
assert pull(Reference.parse("{remote}:2"), registry).verify() == []
"""
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ("unshare", "--map-root-user", "--mount", "sh", "-ec")
    if subprocess.run([*namespace, f"mount -t tmpfs tmpfs '{disk}'"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    mounted = 'mount -t tmpfs -o size=400k tmpfs "$1"; exec "$2" -c "$3" "$1"'
    command = [*namespace, mounted, "sh", str(disk), sys.executable, IMPORTS + script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nobody_listens(registry: LocalRegistry, tandem: Tandem) -> None:
    """The command ends with one sentence and exit code 1."""
    registry.add("digits", make_files())
    for command in (["push", "digits"], ["pull"], ["list"], ["show"]):
        done = tandem("models", *command, f"localhost:{free_port()}/acme/digits", check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "check that the registry runs there" in done.stderr.splitlines()[-1]


def test_sixteen_processes_pull_at_once(
    registry: LocalRegistry, there: LocalRegistry, proxy: Proxy, remote: str
) -> None:
    """Each blob is fetched once; every process has the model."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    push(registry.add("digits", make_files(b"x" * 3_000_000)).artifact.reference, target, registry)
    proxy.requests.clear()
    script = """
from registry import fetch_model
assert fetch_model(sys.argv[2], registry).verify() == []
"""
    assert wait_for([start(script, there.root, f"{target}:1") for _ in range(16)]) == [0] * 16
    blobs = [request.path for request in proxy.requests if "/blobs/" in request.path]
    assert len(blobs) == len(set(blobs)) == 6


def test_the_index_is_read_by_skopeo_while_a_pull_was_killed(
    registry: LocalRegistry, there: LocalRegistry, remote: str
) -> None:
    """A killed pull's partial file isn't part of the layout."""
    for graph in "ab":
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
    pull(Reference.parse(f"{remote}:1"), there)
    partial = there.layout.blob_path("sha256:" + "0" * 64).with_name(".tandem-" + "0" * 64 + ".part")
    partial.write_bytes(b"half")
    assert Layout(there.root).read_index().manifests
    raw = skopeo("inspect", "--raw", f"oci:{there.root}:{remote}:1")
    assert json.loads(raw)["schemaVersion"] == 2


class _Endless(http.server.BaseHTTPRequestHandler):
    """A registry with one model, whose manifest promises a config of a gigabyte."""

    manifest: bytes
    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.seen.append(self.path)
        found = "/manifests/1" in self.path
        self.send_response_only(200 if found else 404)
        self.send_header("Content-Type", MANIFEST_TYPE)
        self.send_header("Content-Length", str(len(self.manifest) if found else 0))
        self.end_headers()
        self.wfile.write(self.manifest if found else b"")


@pytest.mark.parametrize("place", ["config.json", "config"])
def test_a_config_of_a_gigabyte_is_not_fetched(registry: LocalRegistry, there: LocalRegistry, place: str) -> None:
    """It is refused by the size in the manifest, before any file is fetched."""
    manifest = json.loads(registry.layout.read_blob(registry.add("digits", make_files()).artifact.descriptor))
    for descriptor in (manifest["config"], *manifest["layers"]):
        name = descriptor.get("annotations", {}).get(FILEPATH, "config")
        descriptor["size"] = 1_000_000_000 if name == place else descriptor["size"]
    handler = type("Handler", (_Endless,), {"manifest": json.dumps(manifest).encode(), "seen": []})
    with serve(handler) as host:
        reference = Reference.parse(f"{host}/acme/digits:1")
        with pytest.raises(DamagedArtifact, match=r"config.json has 1,000,000,000 bytes, over the limit of 16,777,216"):
            pull(reference, there)
    assert not any("/blobs/" in path for path in handler.seen)
    assert there.models() == []


def test_a_config_of_a_gigabyte_is_not_read(registry: LocalRegistry) -> None:
    """In a layout that somebody copied in: its size is looked at first."""
    artifact = registry.add("digits", make_files()).artifact
    manifest = json.loads(registry.layout.read_blob(artifact.descriptor))
    for layer in manifest["layers"]:
        if layer["annotations"][FILEPATH] == CONFIG:
            layer["size"] = 1_000_000_000
            with registry.layout.blob_path(layer["digest"]).open("wb") as file:
                file.truncate(1_000_000_000)
    put(registry, "large:1", manifest, MANIFEST_TYPE)
    with pytest.raises(DamagedArtifact, match=r"config.json has 1,000,000,000 bytes"):
        registry.resolve("large:1").config  # noqa: B018


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"])
def test_a_registry_here_is_never_asked_through_a_proxy(
    registry: LocalRegistry, there: LocalRegistry, remote: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's proxy can't reach this machine's loopback, whether NO_PROXY says so or not."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(variable, f"http://localhost:{free_port()}")
    pushed = push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    assert pull(pushed.reference, there).digest == pushed.digest


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_registry_with_an_ipv6_address(registry: LocalRegistry, there: LocalRegistry, remote_host: str) -> None:
    """`[::1]:5000/acme/digits` is pushed, pulled, listed and opened again without the network."""
    with run_proxy(remote_host, address="::1") as proxy:
        target = f"{proxy.host}/tests/{uuid.uuid4().hex}/digits"
        assert proxy.host.startswith("[::1]:")
        digest = push(registry.add("digits", make_files()).artifact.reference, target, registry).digest
        assert pull(Reference.parse(f"{target}:1"), there).digest == digest
        proxy.requests.clear()
        assert fetch_model(f"{target}:1", there).digest == digest
        assert proxy.requests == []
    assert [model.reference for model in there.models()] == [f"{target}:1"]
