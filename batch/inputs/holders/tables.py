"""Parquet files with a column of images or of their paths, as Hugging Face's datasets write them too."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch.inputs.holders.opening import Found, opening
from classifier.errors import DataError
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from batch.inputs.named import Input

_ROWS_AT_ONCE = 16
"""Rows of images that are read at once."""

_PATHS_AT_ONCE = 4096


def list_table(input: Input) -> Iterator[Found]:
    """Yield each row of a Parquet file: its path if the column holds paths, otherwise its number and place.

    Raises:
        DataError: it is not a Parquet file, or has no such column of images or paths.
    """
    with _opening_table(input) as table:
        column = _column_of(input, table)
        if column.are_paths:
            for batch in _batches(table, _PATHS_AT_ONCE, columns=[input.column]):
                for path in batch.column(0).to_pylist():
                    yield path or "", None, None
            return
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if column.path is None or _has_bytes_alone(table, group, f"{input.column}.bytes"):
                yield from ((str(row), row, 1) for row in range(first, first + rows))
            else:
                yield from _bytes_or_paths(input, table, group, first)
            first += rows


def _has_bytes_alone(table: Any, group: int, leaf: str) -> bool:
    """Return whether a row group says that each of its rows holds bytes."""
    of_group = table.metadata.row_group(group)
    columns = map(of_group.column, range(of_group.num_columns))
    statistics = next((each.statistics for each in columns if each.path_in_schema == leaf), None)
    return statistics is not None and statistics.has_null_count and statistics.null_count == 0


def _bytes_or_paths(input: Input, table: Any, group: int, row: int) -> Iterator[Found]:
    """Yield each row of a row group of structs: its path if it holds no bytes, otherwise its number and place."""
    for batch in _batches(table, _ROWS_AT_ONCE, row_groups=[group], columns=[input.column]):
        structs = batch.column(0)
        for has_bytes, path in zip(
            structs.field("bytes").is_valid().to_pylist(), structs.field("path").to_pylist(), strict=True
        ):
            yield (path, None, None) if path and not has_bytes else (str(row), row, 1)
            row += 1


def read_table(input: Input) -> Generator[bytes, tuple[int, int]]:
    """Yield the image of each row (number, 1) that is sent, in ascending order, after one empty yield.

    Raises:
        DataError: the file can't be read, or has lost rows.
    """
    (row, _) = yield b""
    with _opening_table(input) as table:
        _column_of(input, table)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row >= first + rows:
                first += rows
                continue
            for batch in _batches(table, _ROWS_AT_ONCE, row_groups=[group], columns=[input.column]):
                input.require_untouched()
                while row < first + len(batch):
                    value = batch.column(0)[row - first].as_py()
                    data = value.get("bytes") if isinstance(value, dict) else value
                    (row, _) = yield data or b""
                first += len(batch)
    raise DataError(f"the Parquet file '{utf8_text(input.given)}' has lost rows since it was planned; restore it")


@contextmanager
def _opening_table(input: Input) -> Iterator[Any]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    with opening(input) as file:
        try:
            # Page by page: a row group of photographs may not fit into memory.
            yield pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except pa.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise DataError(
                f"the Parquet file '{utf8_text(input.given)}' can't be read ({why}); copy or make it again"
            ) from error


def _batches(table: Any, rows: int, **what: Any) -> Iterator[Any]:
    # Without Arrow's threads: a process that ends while they start is sometimes aborted. One column gains nothing.
    batches: Iterator[Any] = table.iter_batches(batch_size=rows, use_threads=False, **what)
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What a column holds. `path` is the type of the paths beside images that Hugging Face's datasets keep, if any."""

    are_paths: bool
    path: Any = None


def _column_of(input: Input, table: Any) -> _Column:
    import pyarrow as pa  # noqa: PLC0415 # takes 0.2 s, and other inputs don't need it

    schema = table.schema_arrow
    index = schema.get_field_index(input.column)
    type = schema.field(index).type if index >= 0 else None
    if type is not None and pa.types.is_struct(type) and type.get_field_index("bytes") >= 0:
        of_bytes = _plain(type.field("bytes").type)
        path = _plain(type.field("path").type) if type.get_field_index("path") >= 0 else None
        path = path if _is_text(path) else None
        if _is_binary(of_bytes) or (pa.types.is_null(of_bytes) and path is not None):
            return _Column(are_paths=False, path=path)
    elif _is_text(plain := _plain(type)) or _is_binary(plain):
        return _Column(are_paths=_is_text(plain))
    fact = "no column" if type is None else f"no images or paths, but {type}, in the column"
    raise DataError(
        f"the Parquet file '{utf8_text(input.given)}' has {fact} '{input.column}'; name one with --column: it has "
        f"{', '.join(schema.names)}"
    )


def _plain(type: Any) -> Any:
    """Return the type of a column's values, which pandas' categories and polars' are behind a dictionary."""
    import pyarrow as pa  # noqa: PLC0415

    return type.value_type if type is not None and pa.types.is_dictionary(type) else type


def _is_text(type: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return type is not None and any(is_kind(type) for is_kind in kinds)


def _is_binary(type: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return type is not None and any(is_kind(type) for is_kind in kinds)
