"""Files that hold many images: tar files, WebDataset shards among them, and Parquet tables."""

from __future__ import annotations

import os
import tarfile
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, Any

from batch.inputs import urls
from batch.inputs.named import Input, printable
from classifier.errors import DataError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

Found = tuple[str, int | None, int | None]
"""An image in an input: its path below it, and where needed its place: first byte, or row, and bytes, or 1."""

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")
_TABLE_BATCH = 16


def is_sequential(input: Input) -> bool:
    """Return whether images can only be read one after the other: out of a compressed tar file, or a table."""
    return input.kind == "parquet" or (input.kind == "tar" and input.location.lower().endswith(_COMPRESSED))


@contextmanager
def _opening(input: Input) -> Iterator[IO[bytes]]:
    """Yield the file of an input, local or remote, for reading; its errors in one sentence."""
    what = f"the {input.kind} file '{printable(input.given)}'"
    try:
        if urls.is_url(input.location):
            with urls.reaching(input.location), closing(urls.open_url(input.location)) as file:
                yield file
        else:
            with open(input.location, "rb") as file:  # noqa: PTH123
                yield file
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{what} can't be read to its end ({error}); copy or make it again") from error
    except OSError as error:  # gzip's and lzma's are OSErrors without an errno
        raise DataError(f"{what} can't be read ({error.strerror or error}); copy or make it again") from error


def list_tar(input: Input, skipped: Counter[str], reason_to_skip: Callable[[str], str | None]) -> Iterator[Found]:
    """Yield the images in a tar file in its own order: the member's name, the first byte and the size.

    Raises:
        DataError: it is no tar file, or is cut short.
    """
    with _opening(input) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # typeshed lacks it; else it keeps them all, about 1 KB each
            if not member.isfile() or member.issparse():
                if not member.isdir():
                    skipped["special file"] += 1
            elif reason := reason_to_skip(member.name):
                skipped[reason] += 1
            else:
                yield member.name, member.offset_data, member.size
        # tarfile takes a damaged header for the end. A sound tar file ends in blocks of zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark where its last member ends")


def list_table(input: Input) -> Iterator[Found]:
    """Yield the rows of a Parquet file: a path where the column holds paths, else the row's number and place.

    Raises:
        DataError: it is no Parquet file, or has no such column of images or paths.
    """
    import pyarrow as pa  # noqa: PLC0415 # 0.2 s that other inputs need not wait for

    with _opening_table(input) as table:
        type = _type_of(input, table)
        if not (pa.types.is_string(type) or pa.types.is_large_string(type)):
            for row in range(table.metadata.num_rows):
                yield str(row), row, 1
            return
        for batch in _batches(table, 1 << 12, columns=[input.column]):
            for path in batch.column(0).to_pylist():
                yield path or "", None, None


@contextmanager
def _opening_table(input: Input) -> Iterator[Any]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    with _opening(input) as file:
        try:
            # Page by page: a row group of photographs need not fit into memory.
            yield pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except pa.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise DataError(
                f"the Parquet file '{printable(input.given)}' can't be read ({why}); copy or make it again"
            ) from error


def _batches(table: Any, rows: int, **what: Any) -> Iterator[Any]:
    # Without Arrow's threads: a process that ends while they start is aborted now and then. One column gains nothing.
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
            f"the Parquet file '{printable(input.given)}' has {fact} '{input.column}'; name one with --column: it has "
            f"{', '.join(schema.names)}"
        )
    return type


def read_in_order(input: Input) -> Callable[[int, int], bytes]:
    """Return a function that gives the bytes at a place, if it is asked in the order of the places.

    Raises:
        DataError: from that function, where the file can't be read.
    """
    read = _read_table(input) if input.kind == "parquet" else _read_tar(input)
    next(read)  # to where it waits for a place
    return lambda start, size: read.send((start, size))


def _read_tar(input: Input) -> Any:
    place = yield b""
    with _opening(input) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        assert tar.fileobj is not None
        while True:
            start, size = place
            tar.fileobj.seek(start)
            data = tar.fileobj.read(size)
            if len(data) < size:
                raise tarfile.ReadError("unexpected end of data")
            place = yield data


def _read_table(input: Input) -> Any:
    (row, _) = yield b""
    with _opening_table(input) as table:
        _type_of(input, table)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row >= first + rows:
                first += rows
                continue
            for batch in _batches(table, _TABLE_BATCH, row_groups=[group], columns=[input.column]):
                while row < first + len(batch):
                    value = batch.column(0)[row - first].as_py()
                    data = value.get("bytes") if isinstance(value, dict) else value
                    (row, _) = yield data or b""
                first += len(batch)
    raise DataError(f"the Parquet file '{printable(input.given)}' has lost rows since it was planned; restore it")


def read_span(path: str, start: int, size: int) -> bytes:
    """Return `size` bytes of a local file from `start` on; fewer where it has lost its end.

    Raises:
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
