"""How a host is reached: plain HTTP only by permission."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.remote.hosts import may_be_plain

if TYPE_CHECKING:
    import pytest


def test_plain_http_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only HTTPS reaches another machine's registry, unless its host is listed."""
    assert may_be_plain("http://localhost:5000/v2/")
    assert may_be_plain("http://127.0.0.2:5000/v2/")
    assert may_be_plain("http://[::1]:5000/v2/")
    assert not may_be_plain("http://registry.lan:5000/v2/")
    assert not may_be_plain("http://localhost.evil.example/v2/")
    monkeypatch.setenv("TANDEM_REGISTRY_PLAIN_HTTP", "other.lan, registry.lan:5000")
    assert may_be_plain("http://registry.lan:5000/v2/")
    assert not may_be_plain("http://registry.lan/v2/")
