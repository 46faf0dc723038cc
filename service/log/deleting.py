"""Erases rows, with the feedback on them, while a service goes on writing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from classifier.errors import LogError
from service.log.schema import FEEDBACK, PREDICTIONS
from service.log.selection import TRUTH_OF_PREDICTION, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from service.log.database import Database

log = logging.getLogger(__name__)

_AT_ONCE = 10_000
"""Rows in a transaction. SQLite has one writer at a time: a long deletion would stop the service's."""


def count_rows(connection: sa.Connection, selection: Selection) -> int:
    """Return how many predictions fulfil the selection."""
    return connection.execute(
        sa.select(sa.func.count()).select_from(PREDICTIONS).where(*selection.conditions())
    ).scalar_one()


def delete_rows(database: Database, selection: Selection, advance: Callable[[int], None]) -> int:
    """Delete predictions with their feedback, and return how many; call `advance` with the number just deleted.

    Feedback on requests that the log lacks is deleted, too, if only a time or a request id selects.

    Raises:
        LogError: nothing is selected.
        SQLAlchemyError: the database failed; some rows may be deleted.
    """
    if selection == Selection():
        raise LogError("nothing says which rows of the prediction log to delete; name a time, a request or a client")
    chosen = sa.select(PREDICTIONS.c.id).where(*selection.conditions()).limit(_AT_ONCE)
    deleted = 0
    while True:
        with database.begin() as connection:
            ids = connection.execute(chosen).scalars().all()
            for start in range(0, len(ids), 500):
                _delete(connection, ids[start : start + 500])
        if not ids:
            break
        deleted += len(ids)
        advance(len(ids))
    _delete_orphans(database, selection)
    if not database.empty_wal():
        log.warning(
            "what was deleted stays in '%s-wal' for now, because another process reads the log; delete again later",
            database.address.path,
        )
    return deleted


def _delete(connection: sa.Connection, ids: Sequence[UUID]) -> None:
    these = PREDICTIONS.c.id.in_(ids)
    connection.execute(sa.delete(FEEDBACK).where(sa.exists().where(TRUTH_OF_PREDICTION, these)))
    connection.execute(sa.delete(PREDICTIONS).where(these))


def _delete_orphans(database: Database, selection: Selection) -> None:
    if selection.client is not None or selection.digest is not None:
        return
    conditions = [~sa.exists().where(TRUTH_OF_PREDICTION)]
    if selection.request_id is not None:
        conditions.append(FEEDBACK.c.request_id == selection.request_id)
    if selection.since is not None:
        conditions.append(FEEDBACK.c.time_utc >= selection.since)
    if selection.until is not None:
        conditions.append(FEEDBACK.c.time_utc < selection.until)
    with database.begin() as connection:
        connection.execute(sa.delete(FEEDBACK).where(*conditions))
