"""Which rows of the log a command is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from service.log.schema import FEEDBACK, PREDICTIONS

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement

TRUTH_OF_PREDICTION = (FEEDBACK.c.request_id == PREDICTIONS.c.request_id) & (
    FEEDBACK.c.image_index == PREDICTIONS.c.image_index
)
"""Joins a prediction with its feedback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows that fulfil all of the conditions; all rows without any.

    Attributes:
        since: from this time on; aware.
        until: before this time; aware.
        digest: of the model, or how it begins, with or without `sha256:`.
        request_id: of the request.
        client: the name of the API key.
    """

    since: datetime | None = None
    until: datetime | None = None
    digest: str | None = None
    request_id: str | None = None
    client: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on `tandem_predictions`."""
        table, found = PREDICTIONS.c, []
        if self.since is not None:
            found.append(table.time_utc >= self.since)
        if self.until is not None:
            found.append(table.time_utc < self.until)
        if self.digest is not None:
            found.append(table.digest.startswith(f"sha256:{self.digest.removeprefix('sha256:')}", autoescape=True))
        if self.request_id is not None:
            found.append(table.request_id == self.request_id)
        if self.client is not None:
            found.append(table.client == self.client)
        return found or [sa.true()]
