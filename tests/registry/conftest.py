"""Fixtures of the registry's tests."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import bcrypt
import pytest
import trustme

from registry import LocalRegistry
from registry.remote import retrying
from tests.registry.artifacts import make_files
from tests.registry.servers import PASSWORD, USER, Proxy, run_proxy, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """Return an empty registry, also the default for commands that the test runs."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return LocalRegistry.default()


@pytest.fixture
def stocked(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry with digits:1 (candidate), digits:2 and digits:3."""
    for graph in "abc":
        registry.add("digits", make_files(graph))
    registry.tag("digits:1", "candidate")
    return registry


@pytest.fixture
def there(tmp_path: Path) -> LocalRegistry:
    """Return the empty registry of another machine."""
    return LocalRegistry(tmp_path / "there")


@pytest.fixture(scope="session")
def remote_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the `host:port` of a real registry without access control."""
    with run_registry(tmp_path_factory.mktemp("remote")) as host:
        yield host


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Return a certificate authority that no machine trusts, and its certificate's file."""
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return ca, path


@pytest.fixture(scope="session")
def locked_host(tmp_path_factory: pytest.TempPathFactory, authority: tuple[trustme.CA, Path]) -> Iterator[str]:
    """Yield the `host:port` of a real registry that needs a password, with a certificate of `authority`."""
    folder = tmp_path_factory.mktemp("locked")
    certificate = authority[0].issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    auth = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    tls = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    with run_registry(folder, auth=auth, tls=tls) as host:
        yield host


@pytest.fixture
def remote(remote_host: str) -> str:
    """Return the reference of a repository that no other test uses."""
    return f"{remote_host}/tests/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(remote_host: str) -> Iterator[Proxy]:
    """Yield a proxy before the registry; nothing goes wrong until a test injects a fault."""
    with run_proxy(remote_host) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all between tries, and half a second for an answer."""
    monkeypatch.setattr(retrying, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("TANDEM_REGISTRY_TIMEOUT", "2")
