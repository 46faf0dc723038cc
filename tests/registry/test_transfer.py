"""Pushing to a real registry and pulling from it: names, what is sent, what is refused, several processes at once."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import CARD, MODEL
from classifier.errors import (
    DamagedArtifact,
    InvalidReference,
    ModelNotFound,
    RegistryError,
)
from registry import LocalRegistry, Reference, fetch_model
from registry.oci.layout import Layout
from registry.remote.models import RemoteModels
from registry.transfer import pull, push
from tests.conftest import ROOT
from tests.registry.artifacts import make_files
from tests.registry.servers import Proxy, free_port, needs_registry, needs_skopeo
from tests.registry.test_processes import IMPORTS, start, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

pytestmark = needs_registry


@pytest.fixture
def there(tmp_path: Path) -> LocalRegistry:
    """Return the empty registry of another machine."""
    return LocalRegistry(tmp_path / "there")


def skopeo(*args: str) -> bytes:
    """Return what skopeo printed."""
    return subprocess.run(["skopeo", *args], check=True, stdout=subprocess.PIPE, timeout=60).stdout


def test_a_model_keeps_version_digest_and_files(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """Pushed without a tag it has its version there; pulled, it has its whole name and the digest that it had."""
    artifact = registry.add("digits", make_files()).artifact
    pushed = push("digits", remote, registry)
    assert str(pushed.reference) == f"{remote}:1"
    copy = pull(pushed.reference, there)
    assert (copy.identity, copy.version) == (f"{remote}@{artifact.digest}", 1)
    assert {file: copy.read(file) for file in copy.files} == make_files()
    assert there.resolve(f"{remote}:1") == there.resolve(None) == copy


@needs_skopeo
def test_skopeo_reads_what_was_pushed_and_pulled(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """The manifest in the registry and in the layout is the one that the digest names, artifactType and all."""
    pushed = push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    pull(pushed.reference, there)
    for source in (f"docker://{remote}:1", f"oci:{there.root}:{remote}:1"):
        tls = ["--tls-verify=false"] if source.startswith("docker") else []
        raw = skopeo("inspect", "--raw", *tls, source)
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == pushed.digest
        assert json.loads(raw)["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


@needs_skopeo
def test_what_skopeo_pushed_can_be_pulled(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """An artifact that another tool brought there is the same one."""
    digest = registry.add("digits", make_files()).artifact.digest
    skopeo("copy", "--dest-tls-verify=false", f"oci:{registry.root}:digits:1", f"docker://{remote}:4")
    assert pull(Reference.parse(f"{remote}:4"), there).digest == digest


def test_a_second_push_sends_nothing(registry: LocalRegistry, proxy: Proxy, remote: str) -> None:
    """Unchanged: one look at the tag. With another model card: that, and the config blob that lists it."""
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
    """A copy that was pulled by its digest goes on to another repository as number 1, and then as number 2."""
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


def test_tags_of_a_remote_repository_move(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """A bare name is production, else the highest version; what an alias stands for is asked each time."""
    for graph in "ab":
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
    one, two = (registry.resolve(f"digits:{number}").digest for number in (1, 2))
    assert fetch_model(remote, there).digest == two
    models = RemoteModels(Reference.parse(remote))
    for number, digest in ((1, one), (2, two)):
        models.tag(Reference.parse(f"{remote}:{number}"), "production", "candidate")
        assert fetch_model(remote, there).digest == digest
        assert fetch_model(f"{remote}:candidate", there).digest == digest
    with pytest.raises(InvalidReference, match="can't be an alias"):
        models.tag(Reference.parse(f"{remote}:1"), "7")


def test_a_copy_answers_without_the_network(
    registry: LocalRegistry, there: LocalRegistry, proxy: Proxy, remote: str
) -> None:
    """By version and by digest no request is made; by alias it is."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    pushed = push(registry.add("digits", make_files()).artifact.reference, target, registry)
    push("digits:1", f"{target}:production", registry)
    fetch_model(f"{target}:1", there)
    proxy.requests.clear()
    assert fetch_model(f"{target}:1", there).digest == fetch_model(f"{target}@{pushed.digest}", there).digest
    assert proxy.requests == []
    fetch_model(f"{target}:production", there)
    assert len(proxy.requests) == 1


def test_a_damaged_copy_is_fetched_again(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """`pull` reads what is there, and replaces what is not what its digest says."""
    pushed = push(registry.add("digits", make_files()).artifact.reference, remote, registry)
    copy = pull(pushed.reference, there)
    there.layout.blob_path(copy.files[MODEL].digest).write_bytes(b"grapf")
    [problem] = copy.verify()
    assert f"'tandem models pull {remote}:1'" in problem
    assert pull(pushed.reference, there).verify() == []


def test_a_damaged_file_is_not_pushed(registry: LocalRegistry, remote: str) -> None:
    """Not even under another digest: the registry has no such model afterwards."""
    artifact = registry.add("digits", make_files()).artifact
    registry.layout.blob_path(artifact.files[MODEL].digest).write_bytes(b"grapf")
    with pytest.raises(DamagedArtifact, match="model 'digits:1' is damaged: the contents of"):
        push("digits:1", remote, registry)
    with pytest.raises(ModelNotFound):
        RemoteModels(Reference.parse(remote)).models()


def test_a_version_that_changed_behind_our_back_is_refused(
    registry: LocalRegistry, there: LocalRegistry, remote: str
) -> None:
    """Another tool can overwrite a version; who has a copy of the first one is told."""
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
    """An image index and a missing tag, each in one sentence that names the way on."""
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
from registry import Reference
from registry.transfer import pull
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


# Each change to a folder, and each message to the registry, is announced to audit hooks before it is done.
KILL = """
changes = 0
def kill(event, args):
    global changes
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    changes += bool(writes) or event in ("os.rename", "os.remove", "os.mkdir", "http.client.send", "urllib3.send")
    if changes == int(sys.argv[3]) and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
from registry import Reference
from registry.remote.models import RemoteModels
from registry.transfer import pull, push
sys.addaudithook(kill)
"""


@needs_skopeo
@pytest.mark.parametrize("operation", ["pull", "push", "tag"])
def test_kill_9_at_every_change(registry: LocalRegistry, tmp_path: Path, remote: str, operation: str) -> None:
    """Both registries name whole models only, skopeo reads the local one, and the operation can be repeated."""
    digest = registry.add("digits", make_files()).artifact.digest
    script = {
        "pull": "pull(Reference.parse(sys.argv[2]), registry)",
        "push": "push('digits:1', sys.argv[2], registry)",
        "tag": "RemoteModels(Reference.parse(sys.argv[2])).tag(Reference.parse(sys.argv[2]), 'production')",
    }[operation]
    push("digits:1", f"{remote}:1", registry)
    for point in range(1, 200):
        home = LocalRegistry(tmp_path / str(point)) if operation == "pull" else registry
        reference = f"{remote}-{point}:1" if operation == "push" else f"{remote}:1"
        [killed] = wait_for([start(KILL + script, home.root, reference, str(point))])
        for model in home.models():
            assert model.verify() == []
            assert skopeo("inspect", "--raw", f"oci:{home.root}:{model.reference}")
        if operation == "pull":
            pull(Reference.parse(reference), home)
        elif operation == "push":
            push("digits:1", reference, registry)
        assert RemoteModels(Reference.parse(reference)).resolve(Reference.parse(reference)).digest == digest
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
    assert point > 3


def test_the_index_is_read_by_skopeo_while_a_pull_was_killed(
    registry: LocalRegistry, there: LocalRegistry, remote: str
) -> None:
    """What a killed pull leaves in the folder is no part of the layout."""
    for graph in "ab":
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
    pull(Reference.parse(f"{remote}:1"), there)
    partial = there.layout.blob_path("sha256:" + "0" * 64).with_name(".tandem-" + "0" * 64 + ".part")
    partial.write_bytes(b"half")
    assert Layout(there.root).read_index().manifests
    raw = skopeo("inspect", "--raw", f"oci:{there.root}:{remote}:1")
    assert json.loads(raw)["schemaVersion"] == 2
