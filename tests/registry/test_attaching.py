"""Attaching: signatures and files that belong to a model, in whichever registry holds it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry, Reference, attach_file, fetch_model, push, sign
from registry.attaching import referrers_of, signature_problem
from registry.oci.manifest import TITLE
from registry.oci.referrers import read_referrers
from registry.remote.models import RemoteModels
from registry.remote.referrers import fetch_referrers
from registry.signing import sign_manifest
from tests.registry.artifacts import make_files, make_keys
from tests.registry.processes import KILL, start, wait_for
from tests.registry.servers import needs_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

pytest.importorskip("model_signing", reason="needs the extra 'signing'")


@needs_registry
def test_a_remote_model_is_signed_and_attached_to_where_it_is(
    registry: LocalRegistry, remote: str, tandem: Tandem, tmp_path: Path
) -> None:
    """Without a copy; `show` lists both, although this registry lacks the referrers API."""
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
    """An invalid type, a missing file, and a file over the size limit."""
    registry.add("digits", make_files())
    (tmp_path / "large").write_bytes(bytes((4 << 20) + 1))
    for file, kind, sentence in (
        ("large", "an SBOM", "'an SBOM' is not a media type"),
        ("absent", "application/spdx+json", "absent can't be read (No such file or directory)"),
        ("large", "application/spdx+json", "large has more than 4 MiB"),
    ):
        done = tandem("models", "attach", "digits:1", tmp_path / file, "--type", kind, check=False)
        assert done.returncode in (1, 2)
        assert sentence in done.stderr.splitlines()[-1]
    assert read_referrers(registry.resolve("digits:1").digest, registry.layout) == []


def test_a_file_is_attached_locally(registry: LocalRegistry, tmp_path: Path) -> None:
    """The model's digest stays; the referrer has the file's name, type and bytes."""
    artifact = registry.add("digits", make_files()).artifact
    (tmp_path / "sbom.json").write_text("{}")
    assert attach_file("digits", tmp_path / "sbom.json", registry, artifact_type="application/spdx+json") == artifact
    [referrer] = referrers_of(artifact)
    [layer] = referrer.manifest.layers
    assert (referrer.manifest.kind, layer.annotations[TITLE]) == ("application/spdx+json", "sbom.json")
    assert referrer.blobs[layer.digest] == b"{}"
    assert registry.resolve("digits:1") == artifact


def test_a_model_is_signed_by_the_one_key(registry: LocalRegistry, tmp_path: Path) -> None:
    """Unsigned and signed by another key, each is one problem; signed by this one, none."""
    artifact = registry.add("digits", make_files()).artifact
    private, public = make_keys(tmp_path, "ours")
    assert "is not signed" in str(signature_problem(artifact, public))
    assert sign("digits", private, registry) == artifact
    assert signature_problem(artifact, public) is None
    assert "has no signature by the key" in str(signature_problem(artifact, make_keys(tmp_path, "theirs")[1]))


ATTACH = """
from registry import find_model
from registry.attaching import attach
from registry.signing import SIGNATURE, SIGNATURE_TYPE
model = find_model(sys.argv[2], registry)
signature = Path(sys.argv[4]).read_bytes()
sys.addaudithook(kill)
attach(model, signature, artifact_type=SIGNATURE_TYPE, title=SIGNATURE)
"""


@needs_registry
@pytest.mark.parametrize("where", ["local", "remote"])
def test_kill_9_at_every_change_of_signing(
    registry: LocalRegistry, remote: str, tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The model is whole, signed or not; signed again it is trusted, also after a pull."""
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
        script = KILL.replace("sys.addaudithook(kill)", ATTACH)
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
