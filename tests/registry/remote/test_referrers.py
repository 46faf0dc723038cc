"""Referrers in registries with the API of OCI distribution 1.1, and in those with the fall-back tag."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry, Reference, fetch_model, pull, push
from registry.remote.models import RemoteModels
from tests.registry.artifacts import make_files, make_keys
from tests.registry.servers import REFERRERS_PER_PAGE, Proxy, needs_registry, run_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Tandem

pytestmark = needs_registry
pytest.importorskip("model_signing", reason="needs the extra 'signing'")

PARITY = "application/vnd.tandem.parity.v1+json"
SBOM = "application/spdx+json"
SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture(params=[True, False], ids=["referrers API", "fall-back tag"])
def either(request: pytest.FixtureRequest, remote_host: str) -> Iterator[tuple[Proxy, bool]]:
    """Yield a registry with or without the API, and whether it has it."""
    with run_proxy(remote_host, referrers_api=request.param) as proxy:
        yield proxy, request.param


@pytest.fixture
def attached(registry: LocalRegistry, tandem: Tandem, tmp_path: Path) -> Path:
    """Return the public key that signed digits:1, which also has an SBOM and three parity reports."""
    registry.add("digits", make_files())
    private, public = make_keys(tmp_path, "ours")
    tandem("models", "sign", "digits:1", "--key", private)
    for name, kind in (("sbom.json", SBOM), *((f"parity{number}.json", PARITY) for number in range(3))):
        (tmp_path / name).write_text(json.dumps({"name": name}))
        tandem("models", "attach", "digits:1", tmp_path / name, "--type", kind)
    return public


def kinds(printed: str) -> list[str]:
    """Return the artifact types of the referrers that `tandem models show` lists."""
    return sorted(line.split()[0] for line in printed.partition("REFERRER")[2].splitlines()[1:])


def test_everything_attached_travels(
    registry: LocalRegistry,
    either: tuple[Proxy, bool],
    remote: str,
    attached: Path,
    tandem: Tandem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signature, SBOM and reports come with push and pull, page by page; a tag is made only without the API."""
    proxy, has_api = either
    target = f"{proxy.host}/{remote.partition('/')[2]}/digits"
    digest = push("digits:1", target, registry).digest
    assert (RemoteModels(Reference.parse(target)).repository.find_manifest(digest.replace(":", "-")) is None) == has_api
    expected = sorted([SIGNATURE, SBOM, PARITY, PARITY, PARITY])
    assert kinds(tandem("models", "show", f"{target}:1").stdout) == expected
    monkeypatch.setenv("TANDEM_TRUSTED_KEY", str(attached))
    there = LocalRegistry(tmp_path / "there" / "registry")
    assert pull(Reference.parse(f"{target}:1"), there).digest == digest
    assert fetch_model(f"{target}:1", there).digest == digest
    home = {"TANDEM_HOME": str(tmp_path / "there")}
    assert kinds(tandem("models", "show", f"{target}@{digest}", env=home).stdout) == expected
    listings = [request.path for request in proxy.requests if "/referrers/" in request.path]
    assert any("start=" in path for path in listings) == has_api
    assert len(expected) > 2 * REFERRERS_PER_PAGE


def test_what_is_there_is_not_sent_again(
    registry: LocalRegistry, either: tuple[Proxy, bool], remote: str, attached: Path, tandem: Tandem, tmp_path: Path
) -> None:
    """A second push sends nothing; a later report is sent alone."""
    proxy, has_api = either
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    push("digits:1", target, registry)
    proxy.requests.clear()
    push("digits:1", target, registry)
    assert proxy.sent("PUT") == []
    (tmp_path / "later.json").write_text('{"name": "later"}')
    tandem("models", "attach", "digits:1", tmp_path / "later.json", "--type", PARITY)
    push("digits:1", target, registry)
    sent = [request.path.rpartition("/")[2].partition("?")[0] for request in proxy.sent("PUT")]
    blobs, manifests = (
        [request for request in proxy.sent("PUT") if kind in request.path] for kind in ("/blobs/", "/manifests/")
    )
    assert (len(blobs), len(manifests)) == (1, 1 if has_api else 2), sent
    assert kinds(tandem("models", "show", f"{target}:1").stdout).count(PARITY) == 4
