"""A log with a few entries, and a PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.service.log.databases import postgres_url, sqlite_url, url  # noqa: F401 # fixtures
from tests.service.log.entries import entry
from tests.service.log.test_exporting import record
from tests.service.servers import postgres  # noqa: F401 # a fixture

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def filled() -> Callable[[str], None]:
    """Return a function that writes four entries into a log: two of January, and two of March by other clients."""

    def fill(log_url: str) -> None:
        january, march = datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
        record(
            log_url,
            [
                entry("january-1", time_utc=january, client="shop"),
                entry("january-2", time_utc=january, status=415, reason="not_an_image", top_k=()),
                entry("march-1", time_utc=march, client="shop"),
                entry("march-2", time_utc=march, client="museum"),
            ],
            [("january-1", 0, "3"), ("march-1", 0, "8"), ("nobody", 0, "3")],
        )

    return fill
