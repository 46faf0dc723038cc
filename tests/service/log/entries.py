"""Entries of a prediction log, and what a database really holds, read without Tandem's code."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from classifier.types import EngineInfo, Prediction
from service.log import LogEntry, PredictionLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIGEST = "sha256:" + "3f95" * 16
ENGINE = EngineInfo(
    name="onnxruntime", version="1.31.1", device="cpu", precision="int8", instruction_set="avx512_vnni", batch_size=None
)


def predictions(*scores: tuple[str, float]) -> tuple[Prediction, ...]:
    return tuple(Prediction(label=label, index=index, score=score) for index, (label, score) in enumerate(scores))


def entry(request_id: str, **fields: Any) -> LogEntry:
    """Return an entry as the service makes it for an image that it classified."""
    usual = {
        "time_utc": datetime.now(UTC),
        "model": f"digits@{DIGEST}",
        "digest": DIGEST,
        "engine": ENGINE,
        "status": 200,
        "sha256": "b0" * 32,
        "bytes": 1234,
        "top_k": predictions(("3", 0.903292), ("0", 0.0159)),
        "queue_ms": 0.5,
        "decode_ms": 1.25,
        "inference_ms": 2.0,
        "total_ms": 4.0,
    }
    return LogEntry(**{**usual, "request_id": request_id, **fields})


def rows(url: str, sql: str = "SELECT * FROM tandem_predictions ORDER BY time_utc, id") -> list[dict[str, Any]]:
    """Return what a query gives, from the database's own driver; none if there is no such table yet."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in connection.execute(sql)]
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return []
    with psycopg.connect(url.replace("+psycopg", ""), row_factory=dict_row) as connection:
        try:
            return connection.execute(sql.encode()).fetchall()
        except psycopg.errors.UndefinedTable:
            return []


def count(url: str, table: str = "tandem_predictions") -> int:
    found = rows(url, f"SELECT count(*) AS n FROM {table}")
    return found[0]["n"] if found else 0


def wait_until(condition: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"this did not happen within {within_s} s")
        time.sleep(0.05)


@contextmanager
def closing_log(url: str) -> Iterator[PredictionLog]:
    """Yield an open log, and close it in whatever state the test leaves it."""
    log = PredictionLog.open(url)
    try:
        yield log
    finally:
        log.close(30)
        log._thread.join(10)
