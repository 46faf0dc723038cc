"""Tables: the columns of a part as Parquet.

Arrow's arrays are made here of their buffers. To make them of lists, pyarrow imports pandas wherever that is installed,
in order to ask whether the lists are its own: in the midst of a run, for a second or for several. And it takes four
times as long.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa


def encode_table(columns: dict[str, list[Any]], *, version: int) -> bytes:
    """Return the columns as a Parquet file, the same bytes for the same columns."""
    import pyarrow as pa  # noqa: PLC0415 # 0.2 s that CSV and JSON Lines need not wait for
    import pyarrow.parquet as pq  # noqa: PLC0415

    to_array: dict[str, Callable[[list[Any]], pa.Array]] = {
        "width": lambda values: _numbers(values, np.int32),
        "height": lambda values: _numbers(values, np.int32),
        "bytes": lambda values: _numbers(values, np.int64),
        "score": lambda values: _numbers(values, np.float32),
        "top_k": lambda values: _lists(values, _scores),
        # Parquet knows no lists of a fixed size: that would be in Arrow's own schema, and for its readers alone.
        "scores": lambda values: _lists(values, _floats),
        "embedding": lambda values: _lists(values, _floats),
    }
    arrays = {name: to_array.get(name, _strings)(values) for name, values in columns.items()}
    table = pa.table(list(arrays.values()), names=list(arrays))
    file = io.BytesIO()
    # One row group for a chunk. Without Arrow's own copy of the schema: all types are Parquet's.
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({"tandem.schema_version": str(version)})
    return file.getvalue()


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
    """Return Arrow's bitmap of which values there are; None where all are."""
    import pyarrow as pa  # noqa: PLC0415

    is_there = [value is not None for value in values]
    return None if all(is_there) else pa.py_buffer(np.packbits(is_there, bitorder="little"))


def _offsets(values: Sequence[Any]) -> pa.Buffer:
    """Return Arrow's offsets of values that have a length, from 0 on."""
    import pyarrow as pa  # noqa: PLC0415

    offsets = np.cumsum([0, *map(len, values)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise OutputError(f"a part would have {offsets[-1]:,} values in a column; give a smaller --chunk-size")
    return pa.py_buffer(offsets.astype(np.int32))
