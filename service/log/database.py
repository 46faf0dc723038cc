"""The database of a prediction log: connections, and what their errors mean."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    SQLAlchemyError,
    StatementError,
)

from classifier.errors import LogError
from service.log.schema import FEEDBACK, PREDICTIONS, check_version, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from service.log.url import LogAddress

FAULTS_OF_ROWS = (DataError, IntegrityError, ValueError, OverflowError)
"""The database works, but refuses a row. Drivers raise the last two before the database sees the row."""
FAULTS_OF_DATABASE = (DatabaseError, InterfaceError, LogError, OSError)
"""Catch these after the faults of rows, two of which are errors of the database, too."""

_SQLITE_LOCKED_S = 2
"""How long SQLite waits for another writer before the attempt fails, and is made again."""
_POSTGRESQL_OPTIONS: dict[str, Any] = {
    # Poolers between client and server don't know prepared statements.
    "prepare_threshold": None,
    "connect_timeout": 10,
    # A server that vanishes without a word is noticed in half a minute; by default in two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "tandem",
    # Else a database without an encoding, SQL_ASCII, would return bytes.
    "client_encoding": "utf8",
}


class Database:
    """A database that holds a prediction log. Connects when it is first used, and again after a failure.

    Args:
        address: where it is.
        writes: whether to make the tables and write. A reader neither makes a file nor locks one.
    """

    def __init__(self, address: LogAddress, *, writes: bool = False) -> None:
        self.address = address
        self._writes = writes
        self._is_ready = False
        self._engine = _sqlite(address.path, writes) if address.path is not None else _postgresql(address)
        dialect = sqlite if address.path is not None else postgresql
        self._add = dialect.insert(PREDICTIONS).on_conflict_do_nothing(index_elements=[PREDICTIONS.c.id])
        replace = dialect.insert(FEEDBACK)
        self._replace = replace.on_conflict_do_update(
            index_elements=[FEEDBACK.c.request_id, FEEDBACK.c.image_index],
            set_={"label": replace.excluded.label, "time_utc": replace.excluded.time_utc},
            # Two replicas may write in another order than the clients sent.
            where=FEEDBACK.c.time_utc <= replace.excluded.time_utc,
        )

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction, committed at the end of the block.

        Raises:
            LogError: the database's log is missing (for a reader), or has another version.
            SQLAlchemyError: the database can't be reached or refuses.
        """
        try:
            with self._engine.begin() as connection:
                if not self._is_ready:
                    migrate(connection) if self._writes else check_version(connection)
                yield connection
            self._is_ready = True
        except FAULTS_OF_ROWS:
            raise
        except FAULTS_OF_DATABASE:
            self._is_ready = False
            # A server that has become a read-only standby, for example, goes on answering its open connections.
            self._engine.dispose()
            raise

    def insert(self, predictions: Sequence[dict[str, Any]], feedback: Sequence[dict[str, Any]]) -> None:
        """Write all rows or none. Rows that are there already are skipped.

        Raises:
            ValueError: a value of a row has no form that the database takes. As `begin`, besides.
        """
        try:
            with self.begin() as connection:
                if predictions:
                    connection.execute(self._add, predictions)
                if feedback:
                    connection.execute(self._replace, feedback)
        except StatementError as error:
            if isinstance(error, DBAPIError):
                raise  # the database's own
            raise ValueError(self.describe(error)) from error

    def describe(self, error: Exception) -> str:
        """Return why the database failed, on one line, without passwords, SQL and rows."""
        why: object = getattr(error, "orig", None) or error
        text = next((line for line in str(why).splitlines() if line.strip()), type(why).__name__).strip()
        if isinstance(why, SQLAlchemyError):
            text = type(why).__name__  # its text quotes SQL and rows
        # The URL's, without reading the file again: libpq quotes neither in its messages, options in a URL may.
        passwords = (self.address.url.password, *_options(self.address, "password", "sslpassword"))
        for password in filter(None, passwords):
            text = text.replace(password, "***")
        return text

    def empty_wal(self) -> bool:
        """Move what is in SQLite's write-ahead log into the main file; return False if a reader prevents it."""
        if self.address.path is None:
            return True
        with closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            [(is_busy, _, _)] = cursor.fetchall()
            return not is_busy

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


@contextmanager
def reading(address: LogAddress) -> Iterator[sa.Connection]:
    """Yield a connection that sees the log as it is now, whatever a service writes meanwhile.

    Raises:
        LogError: the database can't be reached, or holds no log that this Tandem reads.
    """
    with _as_log_error(database := Database(address)), database.begin() as connection:
        yield connection


@contextmanager
def editing(address: LogAddress) -> Iterator[Database]:
    """Yield a database to change.

    Raises:
        LogError: as `reading`.
    """
    with reading(address):
        pass  # there is a log: don't make one
    with _as_log_error(database := Database(address, writes=True)):
        yield database


@contextmanager
def _as_log_error(database: Database) -> Iterator[None]:
    try:
        yield
    except (*FAULTS_OF_DATABASE, SQLAlchemyError) as error:
        why = database.describe(error)
        raise LogError(f"the prediction log, {database.address}, can't be used: {why}") from error
    finally:
        database.close()


def _sqlite(path: Path, writes: bool) -> sa.Engine:
    mode = "rwc" if writes else "rw"  # `ro` can't clean up the files beside the log

    def connect() -> sqlite3.Connection:
        # isolation_level: sqlite3 would begin transactions by itself, and too late.
        file = f"file:{quote(str(path))}?mode={mode}"
        connection = sqlite3.connect(file, uri=True, timeout=_SQLITE_LOCKED_S, isolation_level=None)
        if writes:
            # Readers and the writer don't wait for each other. A power failure may take the last commits, a crash none.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            # What is deleted is overwritten, not only forgotten.
            connection.execute("PRAGMA secure_delete = ON")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.StaticPool, **_JSON)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer that began as a reader could fail later, when another one has written meanwhile.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(address: LogAddress) -> sa.Engine:
    options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in address.url.query}
    engine = sa.create_engine(address.url, connect_args=options, pool_size=1, max_overflow=0, **_JSON)

    @sa.event.listens_for(engine, "do_connect")
    def _give_password(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        if (password := address.password()) is not None:
            parameters["password"] = password

    return engine


_JSON: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}


def _options(address: LogAddress, *names: str) -> list[str]:
    values = [address.url.query.get(name) for name in names]
    return [value for value in values if isinstance(value, str)]
