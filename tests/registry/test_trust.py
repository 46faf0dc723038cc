"""Signatures and attachments: they travel with the model, and what isn't signed is refused before it is opened."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from classifier.errors import RegistryError, UntrustedArtifact
from registry import LocalRegistry, Reference, fetch_model
from registry.companions import fetch_referrers, read_referrers
from registry.remote.models import RemoteModels
from registry.signing import check_signature, sign_manifest
from registry.transfer import pull, push
from tests.registry.artifacts import make_files
from tests.registry.servers import Proxy, needs_registry
from tests.registry.test_processes import start, wait_for
from tests.registry.test_transfer import KILL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

pytest.importorskip("model_signing", reason="needs the extra 'signing'")


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new private key and its public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(registry: LocalRegistry, tandem: Tandem, tmp_path: Path) -> Path:
    """Return the public key that signed digits:1; digits:2 is not signed."""
    private, public = make_keys(tmp_path, "ours")
    registry.add("digits", make_files("signed"))
    registry.add("digits", make_files("unsigned"))
    tandem("models", "sign", "digits:1", "--key", private)
    return public


def test_only_what_the_trusted_key_signed_is_opened(
    registry: LocalRegistry, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not signed, signed by another key, and a signature of another model are each refused in one sentence."""
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    assert fetch_model("digits:1", registry).version == 1
    with pytest.raises(UntrustedArtifact, match="'digits:2' is not signed"):
        fetch_model("digits:2", registry)
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(make_keys(tmp_path, "theirs")[1]))
    with pytest.raises(UntrustedArtifact, match="has no signature by the key"):
        fetch_model("digits:1", registry)
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(tmp_path / "absent.pub"))
    with pytest.raises(RegistryError, match=r"absent.pub can't be read"):
        fetch_model("digits:1", registry)


def test_a_signature_of_another_model_does_not_count(registry: LocalRegistry, signed: Path, tandem: Tandem) -> None:
    """A signature that was moved to another model is none of it."""
    from classifier.types import from_json
    from registry.companions import Referrer, store_referrers
    from registry.oci.manifest import Manifest
    from registry.oci.referrers import pack_referrer
    from registry.signing import SIGNATURE, SIGNATURE_TYPE

    [ours] = read_referrers(registry.resolve("digits:1").digest, registry.layout)
    stolen = ours.blobs[ours.manifest.layers[0].digest]
    unsigned = registry.resolve("digits:2")
    descriptor, blobs = pack_referrer(unsigned.descriptor, artifact_type=SIGNATURE_TYPE, title=SIGNATURE, data=stolen)
    manifest = from_json(blobs[descriptor.digest], Manifest)
    store_referrers([Referrer(descriptor=descriptor, manifest=manifest, blobs=blobs)], registry.layout)
    done = tandem("models", "verify", "digits:1", "digits:2", "--key", signed, check=False)
    assert done.returncode == 1
    assert "digits:1" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[0].endswith(" ok")
    assert "has no signature by the key" in done.stdout
    assert "damaged" not in done.stdout


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"[" * 100_000], ids=["empty", "bare", "no text", "deep"])
def test_what_is_no_signature_hides_none(tmp_path: Path, junk: bytes) -> None:
    """Anybody may attach anything: the one that counts is found beside it, and alone it is refused in one sentence."""
    private, public = make_keys(tmp_path, "ours")
    good = sign_manifest(b"{}", private)
    check_signature("digits:1", b"{}", [junk, good], public)
    with pytest.raises(UntrustedArtifact, match="has no signature by the key"):
        check_signature("digits:1", b"{}", [junk], public)


@needs_registry
def test_signatures_travel(
    registry: LocalRegistry, signed: Path, proxy: Proxy, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed with the model and pulled with it; of what isn't signed, no file is fetched."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    for version in ("1", "2"):
        push(f"digits:{version}", target, registry)
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    there = LocalRegistry(tmp_path / "there")
    assert fetch_model(f"{target}:1", there) == fetch_model(f"{target}:1", there)
    proxy.requests.clear()
    with pytest.raises(UntrustedArtifact, match="is not signed"):
        pull(Reference.parse(f"{target}:2"), there)
    assert not any("/blobs/" in request.path for request in proxy.requests)


@needs_registry
def test_a_signature_that_came_later_is_pushed_alone(
    registry: LocalRegistry, proxy: Proxy, remote: str, tandem: Tandem, tmp_path: Path
) -> None:
    """Signed after it was pushed: the next push brings the signature, and a second one nothing."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    artifact = registry.add("digits", make_files()).artifact
    push("digits:1", target, registry)
    tandem("models", "sign", "digits:1", "--key", make_keys(tmp_path, "ours")[0])
    assert tandem("models", "push", "digits:1", target).stderr == "0 files sent, 0 bytes, 1 referrer added\n"
    repository = RemoteModels(Reference.parse(target)).repository
    assert len(fetch_referrers(artifact.digest, repository)) == 1
    proxy.requests.clear()
    assert tandem("models", "push", "digits:1", target).stderr == "0 files sent, 0 bytes\n"
    assert proxy.sent("PUT") == []


@needs_registry
def test_the_remedy_for_an_unsigned_model_helps(
    registry: LocalRegistry, signed: Path, remote: str, tandem: Tandem, tmp_path: Path
) -> None:
    """Signing it and then pulling it, as the refusal says, is all that it takes: by pull itself, and of a copy."""
    reference = str(push("digits:2", remote, registry).reference)
    elsewhere = {"TANDEM_HOME": str(tmp_path / "elsewhere")}
    trusting = {**elsewhere, "TANDEM_TRUSTED_KEY": str(signed)}
    pulling, verifying = ("models", "pull", reference), ("models", "verify", reference)
    refused = [tandem(*pulling, env=trusting, check=False).stderr]
    tandem(*pulling, env=elsewhere)
    refused.append(tandem(*verifying, env=trusting, check=False).stdout)
    remedy = f": sign it with 'tandem models sign {reference} --key PRIVATE_KEY', then pull it\n"
    assert [text[-len(remedy) :] for text in refused] == [remedy] * 2
    tandem("models", "sign", reference, "--key", signed.with_suffix(".pem"), env=elsewhere)
    for command in (pulling, verifying):
        tandem(*command, env=trusting)


@needs_registry
def test_a_remote_model_is_signed_and_attached_to_where_it_is(
    registry: LocalRegistry, remote: str, tandem: Tandem, tmp_path: Path
) -> None:
    """Without a copy; `show` lists both, which this registry keeps under the fall-back tag."""
    artifact = registry.add("digits", make_files()).artifact
    push("digits:1", remote, registry)
    (tmp_path / "sbom.json").write_text("{}")
    tandem("models", "sign", f"{remote}:1", "--key", make_keys(tmp_path, "ours")[0])
    tandem("models", "attach", f"{remote}:1", tmp_path / "sbom.json", "--type", "application/spdx+json")
    shown = tandem("models", "show", f"{remote}:1").stdout
    assert "application/vnd.dev.sigstore.bundle.v0.3+json" in shown
    assert "application/spdx+json" in shown
    repository = RemoteModels(Reference.parse(remote)).repository
    found = repository.find_manifest(artifact.digest.replace(":", "-"))
    assert found is not None
    assert len(json.loads(found[1])["manifests"]) == 2
    assert [model.version for model in RemoteModels(Reference.parse(remote)).models()] == [1]


def test_what_cannot_be_attached(registry: LocalRegistry, tandem: Tandem, tmp_path: Path) -> None:
    """A type that is none, a file that isn't there, and one that registries and readers won't take at once."""
    registry.add("digits", make_files())
    (tmp_path / "large").write_bytes(bytes((4 << 20) + 1))
    for file, kind, sentence in (
        ("large", "an SBOM", "'an SBOM' is no media type"),
        ("absent", "application/spdx+json", "absent can't be read (No such file or directory)"),
        ("large", "application/spdx+json", "large has more than 4 MiB"),
    ):
        done = tandem("models", "attach", "digits:1", tmp_path / file, "--type", kind, check=False)
        assert done.returncode in (1, 2)
        assert sentence in done.stderr.splitlines()[-1]
    assert read_referrers(registry.resolve("digits:1").digest, registry.layout) == []


def test_referrers_go_with_the_model(registry: LocalRegistry, signed: Path) -> None:
    """Removed, a signed model leaves no file of its own behind."""
    before = set((registry.root / "blobs" / "sha256").iterdir())
    digest = registry.resolve("digits:1").digest
    registry.remove("digits:1")
    assert read_referrers(digest, registry.layout) == []
    left = set((registry.root / "blobs" / "sha256").iterdir())
    assert len(before - left) == 5  # manifest and graph, signature with its manifest and its empty config
    assert registry.resolve("digits:2").verify() == []


def test_a_copied_model_keeps_its_signature(
    registry: LocalRegistry, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a Bento with the model baked in is trusted as well."""
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    other = LocalRegistry(tmp_path / "other")
    registry.copy(registry.resolve("digits:1"), other)
    assert fetch_model("digits:1", other).version == 1


SIGN = """
from registry.signing import SIGNATURE, SIGNATURE_TYPE
from commands.models.sign import _add, find_anywhere
model, repository = find_anywhere(sys.argv[2])
signature = Path(sys.argv[4]).read_bytes()
sys.addaudithook(kill)
_add(model, repository, artifact_type=SIGNATURE_TYPE, title=SIGNATURE, data=signature)
"""


@needs_registry
@pytest.mark.parametrize("where", ["local", "remote"])
def test_kill_9_at_every_change_of_signing(
    registry: LocalRegistry, remote: str, tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The model is whole, and not signed or signed; signed again it is trusted, by whoever pulls it, too."""
    private, public = make_keys(tmp_path, "ours")
    artifact = registry.add("digits", make_files()).artifact
    (tmp_path / "model.sig").write_bytes(sign_manifest(artifact.layout.read_blob(artifact.descriptor), private))
    for point in range(1, 60):
        home = tmp_path / str(point)
        monkeypatch.setenv("TANDEM_HOME", str(home))
        here = LocalRegistry(home / "registry")
        registry.copy(artifact, here)
        reference = "digits:1" if where == "local" else f"{remote}-{point}:1"
        if where == "remote":
            push("digits:1", reference, here)
        script = KILL.replace("sys.addaudithook(kill)", SIGN)
        [killed] = wait_for([start(script, here.root, reference, str(point), tmp_path / "model.sig")])
        model = here.resolve("digits:1")
        assert model.verify() == []
        assert len(read_referrers(model.digest, here.layout)) <= 1
        if where == "remote":
            repository = RemoteModels(Reference.parse(reference)).repository
            assert len(fetch_referrers(artifact.digest, repository)) <= 1
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
        if point % 3 == 0:  # each a second
            tandem("models", "sign", reference, "--key", private)
            monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(public))
            assert fetch_model(reference, here).digest == artifact.digest
            monkeypatch.delenv("TANDEM_TRUSTED_KEY")
    assert 5 < point < 59


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    """One sentence that says how a key is made."""
    (tmp_path / "key").write_text("no key")
    with pytest.raises(RegistryError, match="openssl ecparam"):
        sign_manifest(b"{}", tmp_path / "key")
