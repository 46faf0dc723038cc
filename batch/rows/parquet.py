"""Parts as Parquet: one row group for each part, compressed with zstd.

Arrow's arrays are built from buffers here. Given lists, pyarrow imports pandas if that is installed, to ask whether
they are pandas' own: in the middle of a run, for a second or more. It also takes four times as long.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from batch.rows.columns import SCHEMA_VERSION, Row, to_float32
from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

LIBRARY = "pyarrow"

_T = TypeVar("_T")


def encode(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Return the rows as a file."""
    import pyarrow as pa  # noqa: PLC0415 # takes 0.2 s, and CSV and JSON Lines don't need it
    import pyarrow.parquet as pq  # noqa: PLC0415

    to_array: dict[str, Callable[[list[Any]], pa.Array]] = {
        "width": lambda values: _numbers(values, np.int32),
        "height": lambda values: _numbers(values, np.int32),
        "bytes": lambda values: _numbers(values, np.int64),
        "score": lambda values: _numbers(values, np.float32),
        "top_k": lambda values: _lists(values, _scores),
        # Not fixed-size lists: Parquet has none, so only Arrow's readers would see them.
        "scores": lambda values: _lists(values, _floats),
        "embedding": lambda values: _lists(values, _floats),
    }
    arrays = {name: to_array.get(name, _strings)([getattr(row, name) for row in rows]) for name in columns}
    table = pa.table(list(arrays.values()), names=list(arrays))
    file = io.BytesIO()
    # Without Arrow's own copy of the schema: all types are Parquet's.
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({"tandem.schema_version": str(SCHEMA_VERSION)})
    return file.getvalue()


def decode(data: bytes, type: type[_T]) -> list[_T]:
    """Return each row as a `type`.

    Raises:
        ValueError: the file is not Parquet, or lacks a column.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        # Without Arrow's threads: a process that ends while they start is sometimes aborted, and a file this small is
        # read faster without them.
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(type.__annotations__), use_threads=False)
        names, columns = table.column_names, [column.to_pylist() for column in table.columns]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        return msgspec.convert(rows, list[type], dec_hook=to_float32)  # type: ignore[valid-type]
    except (pa.ArrowException, OSError, msgspec.MsgspecError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


def _numbers(values: Sequence[Any], dtype: type[np.number[Any]]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    numbers = np.array([0 if value is None else value for value in values], dtype=dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(dtype), len(values), [_validity(values), pa.py_buffer(numbers)])


def _strings(values: list[Any]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    encoded = [b"" if value is None else value.encode() for value in values]
    buffers = [_validity(values), _offsets(encoded), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _lists(values: Sequence[Sequence[Any] | None], to_array: Callable[[list[Any]], pa.Array]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    lists: list[Any] = [() if value is None else value for value in values]
    buffers = [_validity(values), _offsets(lists)]
    children = to_array(lists)
    return pa.Array.from_buffers(pa.list_(children.type), len(values), buffers, children=[children])


def _scores(lists: list[Any]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    scores = [score for each in lists for score in each]
    labels, numbers = _strings([each.label for each in scores]), _numbers([each.score for each in scores], np.float32)
    return pa.StructArray.from_arrays([labels, numbers], names=["label", "score"])


def _floats(lists: list[Any]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    numbers = np.concatenate([np.empty(0, dtype=np.float32), *lists], dtype=np.float32)
    return pa.Array.from_buffers(pa.float32(), len(numbers), [None, pa.py_buffer(numbers)])


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    """Return Arrow's bitmap of the values that are not None; None if all are set."""
    import pyarrow as pa  # noqa: PLC0415

    is_there = [value is not None for value in values]
    return None if all(is_there) else pa.py_buffer(np.packbits(is_there, bitorder="little"))


def _offsets(values: Sequence[Any]) -> pa.Buffer:
    """Return Arrow's offsets of values that have a length, beginning with 0."""
    import pyarrow as pa  # noqa: PLC0415

    offsets = np.cumsum([0, *map(len, values)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise OutputError(f"a part would have {offsets[-1]:,} values in a column; give a smaller --chunk-size")
    return pa.py_buffer(offsets.astype(np.int32))
