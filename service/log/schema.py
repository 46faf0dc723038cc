"""The tables of the prediction log, and the steps from each version of them to the next.

A row of `tandem_predictions` is one image of one request. Names and types are those of the bulk run's rows
(`batch.rows.columns`) where both have a column, so that an export can be joined with a bulk run.

The writer makes the primary key, so a batch that is sent again because the connection broke during its commit is stored
once. The key begins with the time, so new rows stand at the end of its index. The other indices serve `--since` and
`delete --before` (time), and feedback and `delete --request-id` (request id).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from classifier.errors import LogError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect


class UtcTime(sa.TypeDecorator[datetime]):
    """A time in UTC; SQLite has it as text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is stored."""
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the aware time."""
        if value is None:
            return None
        stored: datetime = value
        return stored.replace(tzinfo=UTC) if stored.tzinfo is None else stored.astimezone(UTC)


_metadata = sa.MetaData()

PREDICTIONS = sa.Table(
    "tandem_predictions",
    _metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("time_utc", UtcTime, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("image_index", sa.Integer, nullable=False),
    sa.Column("sha256", sa.Text),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("top_k", sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("instruction_set", sa.Text, nullable=False),
    sa.Column("precision", sa.Text, nullable=False),
    sa.Column("queue_ms", sa.Double),
    sa.Column("decode_ms", sa.Double),
    sa.Column("inference_ms", sa.Double),
    sa.Column("total_ms", sa.Double),
    sa.Column("client", sa.Text),
    sa.Column("cached", sa.Boolean, nullable=False),
)
FEEDBACK = sa.Table(
    "tandem_feedback",
    _metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("image_index", sa.Integer, primary_key=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("time_utc", UtcTime, nullable=False),
)
_VERSION = sa.Table("tandem_log_version", _metadata, sa.Column("version", sa.Integer, nullable=False))

_TYPES = {
    "sqlite": {"uuid": "TEXT", "time": "TEXT", "json": "TEXT"},
    "postgresql": {"uuid": "UUID", "time": "TIMESTAMP WITH TIME ZONE", "json": "JSONB"},
}

# A step only adds: replicas of the older Tandem go on writing while those of the new one start.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE tandem_predictions (
            id {uuid} NOT NULL PRIMARY KEY,
            time_utc {time} NOT NULL,
            request_id TEXT NOT NULL,
            image_index INTEGER NOT NULL,
            sha256 TEXT,
            bytes BIGINT,
            status INTEGER NOT NULL,
            reason TEXT,
            label TEXT,
            score DOUBLE PRECISION,
            top_k {json},
            model TEXT NOT NULL,
            digest TEXT NOT NULL,
            engine TEXT NOT NULL,
            device TEXT NOT NULL,
            instruction_set TEXT NOT NULL,
            precision TEXT NOT NULL,
            queue_ms DOUBLE PRECISION,
            decode_ms DOUBLE PRECISION,
            inference_ms DOUBLE PRECISION,
            total_ms DOUBLE PRECISION,
            client TEXT,
            cached BOOLEAN NOT NULL
        )""",
        "CREATE INDEX tandem_predictions_time ON tandem_predictions (time_utc)",
        "CREATE INDEX tandem_predictions_request ON tandem_predictions (request_id, image_index)",
        """CREATE TABLE tandem_feedback (
            request_id TEXT NOT NULL,
            image_index INTEGER NOT NULL,
            label TEXT NOT NULL,
            time_utc {time} NOT NULL,
            PRIMARY KEY (request_id, image_index)
        )""",
    ),
)
"""DDL by version: the first step makes version 1 of an empty database."""

_LOCK = 0x74616E64656D  # "tandem"


def version_of(connection: Connection) -> int:
    """Return the version of the log in a database; 0 if it holds none."""
    if not sa.inspect(connection).has_table(_VERSION.name):
        return 0
    return connection.execute(sa.select(_VERSION.c.version)).scalar_one_or_none() or 0


def check_version(connection: Connection) -> None:
    """Check that a database holds a log that this Tandem can read.

    Raises:
        LogError: it holds none, or one of another version.
    """
    version = version_of(connection)
    if version == 0:
        raise LogError("it holds no prediction log; a service makes one if TANDEM_LOG_URL names it")
    _refuse_newer(version)
    if version < len(STEPS):
        raise LogError(
            f"its log has schema version {version}, this Tandem reads {len(STEPS)}: start its service, which migrates"
        )


def migrate(connection: Connection) -> None:
    """Bring a database to the newest version. The transaction must be able to write.

    If the version is right, only that is read, so a user of the database without the right to make tables can write.

    Raises:
        LogError: a newer Tandem has made it.
    """
    if _refuse_newer(version_of(connection)) == len(STEPS):
        return
    dialect = connection.dialect.name
    if dialect == "postgresql":
        # Replicas that start together take turns. SQLite's BEGIN IMMEDIATE does the same.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {_VERSION.name} (version INTEGER NOT NULL)")
    version = _refuse_newer(connection.execute(sa.select(_VERSION.c.version)).scalar_one_or_none() or 0)
    for step in STEPS[version:]:
        for statement in step:
            connection.exec_driver_sql(statement.format(**_TYPES[dialect]))
    connection.execute(sa.delete(_VERSION))
    connection.execute(sa.insert(_VERSION), {"version": len(STEPS)})


def _refuse_newer(version: int) -> int:
    if version > len(STEPS):
        raise LogError(f"its log has schema version {version}, this Tandem knows up to {len(STEPS)}: update Tandem")
    return version
