"""Signatures: they travel with the model, and with a trusted key nothing unsigned is opened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from classifier.errors import RegistryError, UntrustedArtifact
from registry import LocalRegistry, Reference, fetch_model, find_model, pull, push
from registry.attaching import attach, sign
from registry.oci.index import REF_NAME
from registry.oci.referrers import read_referrers
from registry.remote.models import RemoteModels
from registry.remote.referrers import fetch_referrers
from registry.signing import SIGNATURE, SIGNATURE_TYPE, check_signature, sign_manifest
from tests.registry.artifacts import make_files, make_keys
from tests.registry.servers import Proxy, needs_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

pytest.importorskip("model_signing", reason="needs the extra 'signing'")


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
    """A signature moved to another model doesn't verify there."""
    [ours] = read_referrers(registry.resolve("digits:1").digest, registry.layout)
    stolen = ours.blobs[ours.manifest.layers[0].digest]
    attach(find_model("digits:2", registry), stolen, artifact_type=SIGNATURE_TYPE, title=SIGNATURE)
    done = tandem("models", "verify", "digits:1", "digits:2", "--key", signed, check=False)
    assert done.returncode == 1
    assert "digits:1" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[0].endswith(" ok")
    assert "has no signature by the key" in done.stdout
    assert "damaged" not in done.stdout


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"[" * 100_000], ids=["empty", "bare", "no text", "deep"])
def test_what_is_no_signature_hides_none(tmp_path: Path, junk: bytes) -> None:
    """Anyone may attach anything: a valid signature is found beside it; without one the model is refused."""
    private, public = make_keys(tmp_path, "ours")
    good = sign_manifest(b"{}", private)
    check_signature("digits:1", b"{}", [junk, good], public)
    with pytest.raises(UntrustedArtifact, match="has no signature by the key"):
        check_signature("digits:1", b"{}", [junk], public)


@needs_registry
def test_signatures_travel(
    registry: LocalRegistry, signed: Path, proxy: Proxy, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are pushed and pulled with the model; no file of an unsigned model is fetched."""
    target = f"{proxy.host}/{remote.partition('/')[2]}/digits"
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
    """Signing and pulling, as the error says, is enough: for a refused pull, and for an existing copy."""
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


def test_referrers_go_with_the_model(registry: LocalRegistry, signed: Path) -> None:
    """Removing a signed model removes its signature."""
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
    """So a Bento with the model baked in is trusted, too."""
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    other = LocalRegistry(tmp_path / "other")
    registry.copy(registry.resolve("digits:1"), other)
    assert fetch_model("digits:1", other).version == 1


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    """One sentence that says how a key is made."""
    (tmp_path / "key").write_text("no key")
    with pytest.raises(RegistryError, match="openssl ecparam"):
        sign_manifest(b"{}", tmp_path / "key")


def old_signature(registry: LocalRegistry, reference: str, private: Path) -> None:
    """Sign a model as releases did that bound no name."""
    artifact = registry.resolve(reference)
    signature = sign_manifest(artifact.layout.read_blob(artifact.descriptor), private)
    attach(artifact, signature, artifact_type=SIGNATURE_TYPE, title=SIGNATURE)


def name_as(registry: LocalRegistry, entry: str) -> None:
    """Give digits:1 another name in the index, as whoever can write to the folder may."""
    index = json.loads((registry.root / "index.json").read_bytes())
    first = next(each for each in index["manifests"] if each.get("annotations", {}).get(REF_NAME) == "digits:1")
    index["manifests"].append({**first, "annotations": {REF_NAME: entry}})
    (registry.root / "index.json").write_bytes(json.dumps(index).encode())


@pytest.mark.parametrize("name", ["fraud-detector:7", "digits:7", "fraud-detector:1", "my-digits:1", "digits/other:1"])
def test_a_signed_model_under_another_name(
    registry: LocalRegistry, signed: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature is for one name and version; the error says which, and how to sign this one."""
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    name_as(registry, name)
    with pytest.raises(UntrustedArtifact, match="is signed as digits:1, not under this name and version") as refused:
        fetch_model(name, registry)
    assert "if it is the right model, sign it with 'tandem models sign" in str(refused.value)
    sign(name, signed.with_suffix(".pem"), registry)
    assert fetch_model(name, registry).digest == registry.resolve("digits:1").digest


def test_an_alias_of_a_signed_model(registry: LocalRegistry, signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases move, so they are not part of a signature."""
    registry.tag("digits:1", "production")
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    for reference in ("digits", "digits:production", registry.resolve("digits:1").identity):
        assert fetch_model(reference, registry).version == 1


@needs_registry
def test_a_remote_model_under_another_name(
    registry: LocalRegistry, signed: Path, remote: str, there: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push keeps the last part of the name and the version, or needs another signature; nothing is fetched before."""
    private = signed.with_suffix(".pem")
    same, renumbered, renamed = f"{remote}/digits:1", f"{remote}/digits:7", f"{remote}/fraud-detector:1"
    for target in (same, renumbered, renamed):
        push("digits:1", target, registry)
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(signed))
    assert pull(Reference.parse(same), there).version == 1
    for target in (renumbered, renamed):
        with pytest.raises(UntrustedArtifact, match="is signed as digits:1, not under this name"):
            pull(Reference.parse(target), there)
        sign(target, private, there)
    assert pull(Reference.parse(renamed), there).version == 1


def test_a_signature_of_an_earlier_release(
    registry: LocalRegistry, tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for the name in the signed config, with a line that says what it lacks; for no other name."""
    private, public = make_keys(tmp_path, "ours")
    registry.add("digits", make_files())
    old_signature(registry, "digits:1", private)
    verified = tandem("models", "verify", "digits:1", "--key", public)
    assert verified.stdout.endswith(" ok\n")
    assert "binds no version" in verified.stderr
    assert "'tandem models sign digits:1 --key PRIVATE_KEY'" in verified.stderr
    name_as(registry, "fraud-detector:7")
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(public))
    with pytest.raises(UntrustedArtifact, match="'fraud-detector:7' is signed as digits, not under this name"):
        fetch_model("fraud-detector:7", registry)
