"""An export holds what was recorded, to the bit."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.errors import OutputError
from classifier.types import EngineInfo, Prediction
from service.log import LogEntry, PredictionLog
from service.log.database import reading
from service.log.exporting import export_rows
from service.log.selection import Selection
from service.log.url import parse_log_url
from tests.service.log.entries import DIGEST, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.service.servers import Postgres

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
scores = st.floats(0, 1, width=32)
milliseconds = st.none() | st.floats(0, 1e9)
engines = st.builds(
    EngineInfo,
    name=st.sampled_from(["onnxruntime", "openvino"]),
    version=texts,
    device=st.sampled_from(["cpu", "cuda:0"]),
    precision=st.sampled_from(["fp32", "bf16", "fp16", "int8"]),
    instruction_set=texts,
)
entries = st.builds(
    LogEntry,
    time_utc=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    request_id=texts,
    model=texts,
    digest=texts,
    engine=engines,
    status=st.sampled_from([200, 400, 413, 415, 422, 429, 500, 503]),
    image_index=st.integers(0, 127),
    sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    bytes=st.none() | st.integers(0, 2**62),
    top_k=st.lists(st.builds(Prediction, label=texts, index=st.integers(0, 999), score=scores), max_size=20).map(tuple),
    queue_ms=milliseconds,
    decode_ms=milliseconds,
    inference_ms=milliseconds,
    total_ms=milliseconds,
    reason=st.none() | texts,
    client=st.none() | texts,
    cached=st.booleans(),
)


def exported(url: str, path: Path, selection: Selection = Selection(), **options: Any) -> list[dict[str, Any]]:  # noqa: B008
    with reading(parse_log_url(url)) as connection:
        export_rows(connection, selection, path, options.pop("advance", lambda rows: None), force=True)
    return pq.read_table(path).to_pylist()


def record(url: str, recorded: Sequence[LogEntry], truths: Sequence[tuple[str, int, str]] = ()) -> None:
    log = PredictionLog.open(url)
    for each in recorded:
        assert log.record(each)
    for truth in truths:
        assert log.feedback(*truth)
    log.close(30)
    assert (log.written, log.dropped) == (len(recorded) + len(truths), 0)


def row_of(given: LogEntry) -> dict[str, Any]:
    """Return the row that an entry must become, told without the code that makes it."""
    same = (
        *("time_utc", "request_id", "image_index", "sha256", "bytes", "status", "reason", "model", "digest"),
        *("queue_ms", "decode_ms", "inference_ms", "total_ms", "client", "cached"),
    )
    best = given.top_k[0] if given.top_k else None
    return {
        **{name: getattr(given, name) for name in same},
        "label": best and best.label,
        "score": best and best.score,
        "top_k": [{"label": each.label, "score": each.score} for each in given.top_k] or None,
        "engine": f"{given.engine.name} {given.engine.version}",
        "device": given.engine.device,
        "instruction_set": given.engine.instruction_set,
        "precision": given.engine.precision,
    }


def assert_round_trip(url: str, recorded: list[LogEntry]) -> None:
    record(url, recorded)
    with tempfile.TemporaryDirectory() as folder:
        found = exported(url, Path(folder) / "log.parquet")
    feedback = {"feedback_label": None, "feedback_time_utc": None}
    by_text: Callable[[dict[str, Any]], str] = repr
    expected = [{**row_of(each), **feedback} for each in recorded]
    assert [row["time_utc"] for row in found] == sorted(each.time_utc for each in recorded)
    keys = list(found[0]) if found else []
    found = [{**row, "time_utc": row["time_utc"].astimezone(UTC)} for row in found]
    expected = [{name: row[name] for name in keys} for row in expected]
    assert sorted(found, key=by_text) == sorted(expected, key=by_text)


@settings(max_examples=25)
@given(st.lists(entries, max_size=20))
def test_sqlite_gives_back_what_it_got(recorded: list[LogEntry]) -> None:
    """Times to the microsecond, scores to the bit, any text."""
    with tempfile.TemporaryDirectory() as folder:
        assert_round_trip(f"sqlite:///{folder}/log.db", recorded)


def test_postgresql_gives_back_what_it_got(postgres_url: str) -> None:
    """As SQLite does."""
    from tests.service.log.entries import count

    assert count(postgres_url) == 0

    @settings(max_examples=10)
    @given(st.lists(entries, max_size=20))
    def test(recorded: list[LogEntry]) -> None:
        import psycopg

        with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
            if connection.execute("SELECT to_regclass('tandem_predictions')").fetchone() != (None,):
                connection.execute("TRUNCATE tandem_predictions")
        assert_round_trip(postgres_url, recorded)

    test()


def test_a_database_without_an_encoding(postgres: Postgres, tmp_path: Path) -> None:
    """SQL_ASCII, the encoding of a PostgreSQL that was set up with the locale C, keeps any text as well."""
    url = postgres.create("without-encoding", "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    record(url, [entry("a", client="größer als Ⅷ")])
    [row] = exported(url, tmp_path / "log.parquet")
    assert row["client"] == "größer als Ⅷ"


def test_with_feedback(url: str, tmp_path: Path) -> None:
    """The truth stands beside its prediction; images of one request are told apart."""
    record(url, [entry("a"), entry("a", image_index=1), entry("b")], [("a", 1, "8"), ("unknown", 0, "8")])
    found = exported(url, tmp_path / "log.parquet")
    assert [(row["request_id"], row["image_index"], row["feedback_label"]) for row in found] == [
        ("a", 0, None),
        ("a", 1, "8"),
        ("b", 0, None),
    ]
    assert found[1]["feedback_time_utc"] is not None


def test_selection(url: str, tmp_path: Path) -> None:
    """From a time on, before a time, and of a model, by the first characters of its digest."""
    day = datetime(2026, 1, 31, tzinfo=UTC)
    times = [day - timedelta(microseconds=1), day, day + timedelta(days=1, microseconds=-1), day + timedelta(days=1)]
    other = "sha256:" + "00%_" * 16
    record(url, [*(entry(str(number), time_utc=time) for number, time in enumerate(times)), entry("x", digest=other)])
    selections = {
        Selection(since=day, until=day + timedelta(days=1)): "12",
        Selection(until=day): "0",
        Selection(digest=DIGEST[7:15]): "0123",
        Selection(digest=DIGEST): "0123",
        Selection(digest="00%_"): "x",
        Selection(digest="%"): "",
    }
    for selection, names in selections.items():
        found = exported(url, tmp_path / "log.parquet", selection)
        assert "".join(row["request_id"] for row in found) == names


def test_types_are_those_of_the_bulk_run(sqlite_url: str, tmp_path: Path) -> None:
    """An export can be joined with a bulk run: same names, same types."""
    from batch.rows.columns import Row
    from batch.rows.parquet import encode

    record(sqlite_url, [entry("a")])
    exported(sqlite_url, tmp_path / "log.parquet")
    ours = pq.read_schema(tmp_path / "log.parquet")
    row = Row(**{**dict.fromkeys(Row.__slots__, "a"), "width": 1, "height": 1, "bytes": 1, "score": 0.5, "top_k": ()})
    shared = ("bytes", "sha256", "label", "score", "model", "engine", "device", "precision")
    (tmp_path / "part.parquet").write_bytes(encode([row], shared))
    theirs = pq.read_schema(tmp_path / "part.parquet")
    assert {name: ours.field(name).type for name in shared} == {name: theirs.field(name).type for name in shared}
    assert np.float32(pq.read_table(tmp_path / "log.parquet")["score"][0].as_py()) == np.float32(0.903292)


def test_in_groups_of_rows(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many rows are in memory; progress is told after each."""
    monkeypatch.setattr("service.log.exporting._ROWS_AT_ONCE", 100)
    record(sqlite_url, [entry(f"{number:03}") for number in range(250)])
    told: list[int] = []
    found = exported(sqlite_url, tmp_path / "log.parquet", advance=told.append)
    assert told == [100, 100, 50]
    assert [row["request_id"] for row in found] == [f"{number:03}" for number in range(250)]


def test_a_failure_leaves_no_file(sqlite_url: str, tmp_path: Path) -> None:
    """The file appears when it is complete, or the old one stays."""
    record(sqlite_url, [entry("a")])
    path = tmp_path / "log.parquet"
    path.write_text("old")

    def fail(rows: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"log\.parquet' can't be written: No space left"):
        exported(sqlite_url, path, advance=fail)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
