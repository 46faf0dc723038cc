"""Referrers where a registry has the API of OCI distribution 1.1, and where it keeps them under the fall-back tag."""

from __future__ import annotations

import http.server
import json
from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry, Reference, fetch_model
from registry.remote.models import RemoteModels
from registry.remote.repository import RemoteRepository
from registry.transfer import pull, push
from tests.registry.artifacts import make_files
from tests.registry.servers import REFERRERS_PER_PAGE, Proxy, needs_registry, run_proxy, serve
from tests.registry.test_trust import make_keys

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
    """Give a registry that has the API or lacks it, and which it is."""
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
    target = f"{proxy.host}/{remote.partition('/')[2]}"
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
    """Not one byte, by a second push; a report that came later is sent alone."""
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


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        page = b"<html>" if "/referrers/" in self.path else b"{}"
        self.send_response_only(200 if page == b"<html>" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def test_a_page_is_no_list_of_referrers() -> None:
    """What stands before a registry without the API may answer all that it doesn't know with a page."""
    with serve(_Page) as host:
        assert RemoteRepository(host, "acme/digits").referrers("sha256:" + "0" * 64) == []


class _Paging(http.server.BaseHTTPRequestHandler):
    link: str

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        tags = ["1", "2"] if "last=" not in query else ["3"]
        page = json.dumps({"tags": tags} if path == "/v2/acme/digits/tags/list" else {}).encode()
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(page)))
        if len(tags) == 2:
            self.send_header("Link", f'<{self.link}>; rel="next"')
        self.end_headers()
        self.wfile.write(page)


@pytest.mark.parametrize("link", ["?last=2", "list?last=2", "/v2/acme/digits/tags/list?last=2", "http://{host}{path}"])
def test_the_next_page_is_found_from_this_one(link: str) -> None:
    """However a registry writes where it is; a page that is missed would be models that are missed."""
    handler = type("Handler", (_Paging,), {"link": link})
    with serve(handler) as host:
        handler.link = link.format(host=host, path="/v2/acme/digits/tags/list?last=2")  # type: ignore[attr-defined]
        assert RemoteRepository(host, "acme/digits").tags() == ["1", "2", "3"]
