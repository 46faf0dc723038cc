"""Parquet files with a column of images or of their paths, as Hugging Face's datasets write them too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batch.inputs.opening import Found, opening
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
    import pyarrow as pa  # noqa: PLC0415 # takes 0.2 s, and other inputs don't need it

    with _opening_table(input) as table:
        type = _type_of(input, table)
        if not (pa.types.is_string(type) or pa.types.is_large_string(type)):
            for row in range(table.metadata.num_rows):
                yield str(row), row, 1
            return
        for batch in _batches(table, _PATHS_AT_ONCE, columns=[input.column]):
            for path in batch.column(0).to_pylist():
                yield path or "", None, None


def read_table(input: Input) -> Generator[bytes, tuple[int, int]]:
    """Yield the image of each row (number, 1) that is sent, in ascending order, after one empty yield.

    Raises:
        DataError: the file can't be read, or has lost rows.
    """
    (row, _) = yield b""
    with _opening_table(input) as table:
        _type_of(input, table)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row >= first + rows:
                first += rows
                continue
            for batch in _batches(table, _ROWS_AT_ONCE, row_groups=[group], columns=[input.column]):
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


def _type_of(input: Input, table: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    schema = table.schema_arrow
    index = schema.get_field_index(input.column)
    type = schema.field(index).type if index >= 0 else None
    if type is not None and pa.types.is_struct(type) and (inner := type.get_field_index("bytes")) >= 0:
        type = type.field(inner).type  # as Hugging Face's datasets keep images
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if type is None or not any(is_kind(type) for is_kind in kinds):
        fact = "no column" if type is None else f"no images or paths, but {type}, in the column"
        raise DataError(
            f"the Parquet file '{utf8_text(input.given)}' has {fact} '{input.column}'; name one with --column: it has "
            f"{', '.join(schema.names)}"
        )
    return type
