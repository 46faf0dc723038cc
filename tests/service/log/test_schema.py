"""The tables: made once, migrated in order, never taken from a newer Tandem."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from classifier.errors import LogError
from service.log import PredictionLog, schema
from service.log.database import Database, reading
from service.log.selection import Selection
from service.log.summary import summarise
from service.log.url import parse_log_url
from tests.conftest import ROOT
from tests.service.log.entries import count, entry, rows, wait_until

if TYPE_CHECKING:
    from tests.service.servers import Postgres

NEWER = ("ALTER TABLE tandem_predictions ADD COLUMN size_px INTEGER", "CREATE TABLE tandem_more (at {time})")


def written_by_this_version(url: str) -> None:
    log = PredictionLog.open(url)
    log.record(entry("old"))
    log.close(10)
    assert count(url) == 1


def version(url: str) -> list[int]:
    return [row["version"] for row in rows(url, "SELECT version FROM tandem_log_version")]


def test_the_tables_are_those_that_the_code_knows(url: str) -> None:
    """The statements that make the tables, and the queries, name the same columns, keys and types."""
    database = Database(parse_log_url(url), writes=True)
    with database.begin() as connection:
        inspector = sa.inspect(connection)
        for table in (schema.PREDICTIONS, schema.FEEDBACK):
            made = {column["name"]: column for column in inspector.get_columns(table.name)}
            assert list(made) == [column.name for column in table.c]
            assert [made[column.name]["nullable"] for column in table.c] == [column.nullable for column in table.c]
            key = [column.name for column in table.primary_key]
            assert inspector.get_pk_constraint(table.name)["constrained_columns"] == key
    database.close()


def test_an_older_log_is_migrated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of a newer Tandem adds what is missing, once, and the rows stay."""
    written_by_this_version(url)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, NEWER))
    for name in ("new", "newer"):
        log = PredictionLog.open(url)
        log.record(entry(name))
        log.close(10)
    assert version(url) == [2]
    assert [(row["request_id"], row["size_px"]) for row in rows(url)] == [("old", None), ("new", None), ("newer", None)]
    assert rows(url, "SELECT * FROM tandem_more") == []


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version and tables change together or not at all."""
    written_by_this_version(url)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, (*NEWER, "ALTER TABLE missing ADD COLUMN a INTEGER")))
        log = PredictionLog.open(url)
        wait_until(lambda: log._failing_since is not None)
        log.close(0)
        log._thread.join(10)
    assert version(url) == [1]
    assert "size_px" not in rows(url)[0]


def test_a_newer_log_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An older service writes nothing into it, and says why; commands end with the same sentence."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, NEWER))
        written_by_this_version(url)
    log = PredictionLog.open(url)
    log.record(entry("a"))
    wait_until(lambda: bool(caplog.messages))
    assert "schema version 2, this Tandem knows up to 1: update Tandem" in caplog.messages[0]
    log.close(0)
    log._thread.join(10)
    assert count(url) == 1
    with pytest.raises(LogError, match="update Tandem"), reading(parse_log_url(url)):
        pass


def test_commands_do_not_migrate(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only reads changes nothing."""
    written_by_this_version(url)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, NEWER))
    with pytest.raises(LogError, match="start its service"), reading(parse_log_url(url)):
        pass
    assert version(url) == [1]


def test_a_user_who_may_only_write_rows(postgres: Postgres, postgres_url: str) -> None:
    """Once the tables are there, the service's user of the database needs no right to make any."""
    written_by_this_version(postgres_url)
    for statement in (
        "CREATE USER writer PASSWORD 'w'",
        "GRANT SELECT, INSERT, UPDATE ON tandem_predictions, tandem_feedback TO writer",
        "GRANT SELECT ON tandem_log_version TO writer",
    ):
        with postgres.connect(postgres_url.rpartition("/")[2]) as connection:
            connection.execute(statement)
    log = PredictionLog.open(f"postgresql+psycopg://writer:w@{postgres_url.rpartition('@')[2]}")
    log.record(entry("a"))
    log.feedback("a", 0, "3")
    log.close(10)
    assert log.written == 2
    with reading(parse_log_url(postgres_url)) as connection:
        assert summarise(connection, Selection()).images == 2


def test_services_that_start_together(url: str) -> None:
    """Eight services on an empty database make the tables once; nobody fails."""
    script = (
        "import sys, logging; logging.basicConfig(); from service.log import PredictionLog\n"
        "logs = [PredictionLog.open(sys.argv[1]) for _ in range(4)]\n"
        "for log in logs: log.feedback('a', 0, 'b')\n"
        "for log in logs: log.close(30)\n"
        "print(sum(log.written for log in logs))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0] for process in both] == ["4\n"] * 2
    assert version(url) == [len(schema.STEPS)]
