"""Databases for a prediction log."""

from __future__ import annotations

import pytest

from tests.service.log.databases import postgres_url, sqlite_url, url  # noqa: F401 # fixtures
from tests.service.servers import postgres  # noqa: F401 # a fixture


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
