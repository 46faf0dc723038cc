"""Fixtures of the registry's tests."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from registry import LocalRegistry, retrying
from tests.registry.servers import Proxy, run_proxy, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """Return an empty registry, which is also the default of the commands that the test runs."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return LocalRegistry.default()


@pytest.fixture(scope="session")
def remote_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the `host:port` of a real registry without access control."""
    with run_registry(tmp_path_factory.mktemp("remote")) as host:
        yield host


@pytest.fixture
def remote(remote_host: str) -> str:
    """Return the reference of a repository that no other test uses."""
    return f"{remote_host}/tests/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(remote_host: str) -> Iterator[Proxy]:
    """Give a proxy before the registry, through which nothing goes wrong until a test says what."""
    with run_proxy(remote_host) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all between tries, and half a second for an answer."""
    monkeypatch.setattr(retrying, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("TANDEM_REGISTRY_TIMEOUT", "2")
