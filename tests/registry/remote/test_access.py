"""Access to registries: Basic and Bearer, private certificates and redirects, without leaking a secret."""

from __future__ import annotations

import http.server
import json
import logging
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from classifier.errors import DamagedArtifact, RegistryDenied, RegistryUnreachable
from registry import LocalRegistry, pull, push
from tests.registry.artifacts import make_files
from tests.registry.servers import PASSWORD, USER, log_in, needs_registry, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture
def trusting(authority: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority."""
    monkeypatch.setenv("TANDEM_REGISTRY_CA", str(authority[1]))


@needs_registry
@pytest.mark.usefixtures("trusting")
def test_basic_and_tls(
    registry: LocalRegistry, locked_host: str, docker_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry with its own certificate and a password takes a model and gives it back; the log has no secret."""
    caplog.set_level(logging.DEBUG)
    log_in(docker_config, locked_host)
    registry.add("digits", make_files())
    pushed = push("digits", f"{locked_host}/acme/digits", registry)
    assert pull(pushed.reference, LocalRegistry(tmp_path / "there")).digest == pushed.digest
    assert PASSWORD not in caplog.text
    assert b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in caplog.text


@needs_registry
@pytest.mark.usefixtures("trusting")
def test_the_environment_has_credentials_too(
    registry: LocalRegistry, locked_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TANDEM_REGISTRY_USERNAME and _PASSWORD override Docker's config, for CI without `docker login`."""
    registry.add("digits", make_files())
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", PASSWORD)
    assert push("digits", f"{locked_host}/acme/environment", registry).sent


@needs_registry
@pytest.mark.usefixtures("trusting")
def test_no_and_wrong_credentials(registry: LocalRegistry, locked_host: str, docker_config: Path) -> None:
    """Each is one sentence with the way to log in, and without the password."""
    registry.add("digits", make_files())
    with pytest.raises(RegistryDenied, match=f"needs a user and a password: run 'docker login {locked_host}'"):
        push("digits", f"{locked_host}/acme/digits", registry)
    log_in(docker_config, locked_host, password="wrong-secret")
    with pytest.raises(RegistryDenied, match="as a user who may") as caught:
        push("digits", f"{locked_host}/acme/digits", registry)
    assert "wrong-secret" not in str(caught.value)


@needs_registry
def test_an_unknown_certificate_is_refused(registry: LocalRegistry, locked_host: str) -> None:
    """Before anything is sent, and without another try; a local registry with TLS never falls back to HTTP."""
    registry.add("digits", make_files())
    with pytest.raises(RegistryUnreachable, match=r"can't be trusted \(.*\): name its .* TANDEM_REGISTRY_CA"):
        push("digits", f"{locked_host}/acme/digits", registry)


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    """A registry that needs Bearer tokens, and its token server."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str | None, bytes]]
    realm_host: str
    elsewhere: str

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((f"{self.command} {self.path}", self.headers.get("Authorization"), body))
        url = urlsplit(self.path)
        if url.path == "/token":
            self.give_token(parse_qs(url.query or body.decode()))
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="http://{self.headers["Host"]}/token",service="tests",scope="repository:a:pull"'
            self.answer(401, b"{}", {"WWW-Authenticate": challenge})
        elif "/blobs/" in url.path:
            self.answer(307, b"", {"Location": f"http://{self.elsewhere}{url.path}?X-Signature=presigned-secret"})
        else:
            # Entries that can't be tags are left out: they could become part of a URL, or move a cursor.
            self.answer(200, b'{"tags": ["1", "../../b", "\\u001b[2J"]}', {})

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def give_token(self, fields: dict[str, list[str]]) -> None:
        basic = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        right = self.headers.get("Authorization") == basic or fields.get("refresh_token") == ["refresh-secret"]
        self.answer(200 if right else 401, json.dumps({"token": TOKEN} if right else {}).encode(), {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def bearer() -> Iterator[tuple[str, type[_TokenHandler]]]:
    """Yield the host of a registry that needs tokens, and its handler, which keeps every request."""
    handler = type("Handler", (_TokenHandler,), {"seen": [], "elsewhere": ""})
    with serve(handler) as host:
        yield host, handler


def tags_of(host: str) -> list[str]:
    """Return the tags of a repository at `host`."""
    from registry.remote.repository import RemoteRepository

    return RemoteRepository(host, "acme/digits").tags()


def test_bearer(bearer: tuple[str, type[_TokenHandler]], docker_config: Path) -> None:
    """The password goes to the token server alone, the token to the registry; it is asked for once."""
    host, handler = bearer
    log_in(docker_config, host)
    assert tags_of(host) == ["1"]
    requests = [line for line, _, _ in handler.seen]
    tags = "GET /v2/acme/digits/tags/list"
    assert [line.split("?")[0] for line in requests] == [tags, "GET /token", tags]
    asked = parse_qs(urlsplit(requests[1].split()[1]).query)
    assert asked == {"service": ["tests"], "scope": ["repository:a:pull", "repository:acme/digits:pull"]}
    assert handler.seen[0][1] is None
    assert handler.seen[2][1] == f"Bearer {TOKEN}"


class _Public(_TokenHandler):
    def give_token(self, fields: dict[str, list[str]]) -> None:
        self.answer(200, json.dumps({"token": TOKEN}).encode(), {})


@pytest.mark.parametrize("config", [{"credsStore": "absent"}, {"credHelpers": {"HOST": "absent"}}])
def test_a_public_model_needs_no_credential_helper(
    docker_config: Path, caplog: pytest.LogCaptureFixture, config: dict[str, Any]
) -> None:
    """Docker's config names a helper that this machine lacks: a registry that gives tokens to all is still read."""
    with serve(type("Handler", (_Public,), {"seen": [], "elsewhere": ""})) as host:
        docker_config.write_text(json.dumps(config).replace("HOST", host))
        assert tags_of(host) == ["1"]
    assert "going on without credentials, as for a public model: docker-credential-absent, which" in caplog.text


def test_a_private_model_needs_the_credential_helper(
    bearer: tuple[str, type[_TokenHandler]], docker_config: Path
) -> None:
    """The error is the helper's, not that nobody has logged in."""
    docker_config.write_text(json.dumps({"credsStore": "absent"}))
    with pytest.raises(RegistryDenied, match=r"docker-credential-absent, which .* can't be run .*: install it"):
        tags_of(bearer[0])


def test_an_identity_token_is_exchanged(bearer: tuple[str, type[_TokenHandler]], docker_config: Path) -> None:
    """What `docker login` keeps for registries with OAuth2: the refresh token travels in the body alone."""
    host, handler = bearer
    docker_config.write_text(json.dumps({"auths": {host: {"identitytoken": "refresh-secret"}}}))
    assert tags_of(host) == ["1"]
    assert all("refresh-secret" not in line for line, _, _ in handler.seen)


def test_a_refused_token(bearer: tuple[str, type[_TokenHandler]], docker_config: Path) -> None:
    """Without and with wrong credentials: one sentence, without them."""
    host, _ = bearer
    with pytest.raises(RegistryDenied, match=r"gives no token without credentials \(HTTP 401\): run 'docker login"):
        tags_of(host)
    log_in(docker_config, host, password="wrong-secret")
    with pytest.raises(RegistryDenied, match="refuses the credentials") as caught:
        tags_of(host)
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["{storage}", "{storage}\\@{registry}"], ids=["plain", "looks like the registry"])
def test_a_redirect_carries_no_secret(
    bearer: tuple[str, type[_TokenHandler]], docker_config: Path, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """Storage on another host gets neither token nor password, and no log or error shows its signed URL."""
    from registry.oci.manifest import describe
    from registry.remote.repository import RemoteRepository

    caplog.set_level(logging.INFO)
    host, handler = bearer
    log_in(docker_config, host)
    storage = type("Storage", (_Storage,), {"seen": []})
    with serve(storage) as elsewhere:
        handler.elsewhere = address.format(storage=elsewhere.replace("localhost", "127.0.0.1"), registry=host)
        repository = RemoteRepository(host, "acme/digits")
        assert repository.read_blob(describe(b"blob", "")) == b"blob"
        with pytest.raises(DamagedArtifact) as caught:
            repository.read_blob(describe(b"other", ""))
    assert storage.seen
    assert storage.seen == [None] * len(storage.seen)
    for secret in ("presigned-secret", PASSWORD, TOKEN):
        assert secret not in str(caught.value)
        assert secret not in caplog.text


class _Storage(http.server.BaseHTTPRequestHandler):
    seen: list[str | None]

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_response_only(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"blob" if self.headers.get("Range") is None else b"")


def test_a_token_server_without_tls_gets_no_password(monkeypatch: pytest.MonkeyPatch, docker_config: Path) -> None:
    """A registry can't make the client send the password unencrypted."""
    from registry.remote.authentication import Authenticator

    log_in(docker_config, "ghcr.io")

    def ask(*args: object, **kwargs: object) -> tuple[int, bytes]:
        pytest.fail("the password would have left")

    for realm, fact in {
        "http://evil.example/token": "http://evil.example, which is not HTTPS",
        "http://evil.example\\\\@localhost/token": "http://evil.example, which is not HTTPS",
        "https://[evil/token": "an invalid URL",
    }.items():
        with pytest.raises(RegistryDenied, match=fact):
            Authenticator("ghcr.io", ask).answer(f'Bearer realm="{realm}"', "s", refused=None)
