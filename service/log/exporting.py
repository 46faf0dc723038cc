"""Exports the log to Parquet, a row for each prediction, with its feedback beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from classifier.errors import OutputError
from classifier.files import open_replacement
from service.log.schema import FEEDBACK, PREDICTIONS
from service.log.selection import TRUTH_OF_PREDICTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from service.log.selection import Selection

_ROWS_AT_ONCE = 20_000
"""Rows in memory, and in a row group."""

_TIME = pa.timestamp("us", tz="UTC")
_ARROW_TYPES = {
    "time_utc": _TIME,
    "feedback_time_utc": _TIME,
    "image_index": pa.int32(),
    "status": pa.int32(),
    "bytes": pa.int64(),
    "score": pa.float32(),  # what the model gave; the database has a double of the same value
    "top_k": pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())])),
    **dict.fromkeys(("queue_ms", "decode_ms", "inference_ms", "total_ms"), pa.float64()),
    "cached": pa.bool_(),
}
_COLUMNS = (
    *(column for column in PREDICTIONS.c if column is not PREDICTIONS.c.id),
    FEEDBACK.c.label.label("feedback_label"),
    FEEDBACK.c.time_utc.label("feedback_time_utc"),
)
SCHEMA = pa.schema([(column.name, _ARROW_TYPES.get(column.name, pa.string())) for column in _COLUMNS])
"""The columns: those of `tandem_predictions` but for the key, and the feedback; null where there is none."""


def export_rows(
    connection: Connection, selection: Selection, path: Path, advance: Callable[[int], None], *, force: bool
) -> int:
    """Write the selected rows to `path` in the order of their times, and return how many.

    The file appears when it is complete. `advance` is called with the number of rows just written.

    Raises:
        OutputError: the file is there and `force` is not given, or it can't be written.
    """
    if path.exists() and not force:
        raise OutputError(f"'{path}' exists; name another file, or overwrite it with --force")
    rows = 0
    try:
        with open_replacement(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for batch in _batches(connection, selection):
                writer.write_batch(batch)
                rows += batch.num_rows
                advance(batch.num_rows)
    except OSError as error:
        raise OutputError(f"'{path}' can't be written: {error.strerror or error}") from error
    return rows


def _batches(connection: Connection, selection: Selection) -> Iterator[pa.RecordBatch]:
    query = (
        sa.select(*_COLUMNS)
        .join_from(PREDICTIONS, FEEDBACK, TRUTH_OF_PREDICTION, isouter=True)
        .where(*selection.conditions())
        .order_by(PREDICTIONS.c.time_utc, PREDICTIONS.c.id)
        .execution_options(yield_per=_ROWS_AT_ONCE)  # a cursor on the server: no result is held as a whole
    )
    for rows in connection.execute(query).partitions():
        columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True))
        arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        yield pa.record_batch(arrays, schema=SCHEMA)
