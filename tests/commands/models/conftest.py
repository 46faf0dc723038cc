"""The fixtures of the registry: an empty local one, and a real remote one."""

from __future__ import annotations

from tests.registry.conftest import registry, remote, remote_host

__all__ = ["registry", "remote", "remote_host"]
