"""The fixtures of the registry: an empty local one."""

from __future__ import annotations

from tests.registry.conftest import registry

__all__ = ["registry"]
