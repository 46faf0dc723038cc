"""Outcomes: what the rows of a part say, without the lists of scores, at the speed that ten million of them need."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Literal

import msgspec

from batch.rows.formats import csv_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.rows.formats import Format


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a row says of its image. The fields are columns of those names."""

    path: str
    input: str
    status: Literal["ok", "error"]
    error: str | None
    bytes: int | None
    sha256: str | None
    label: str | None
    score: float | None
    model: str
    engine: str
    device: str
    precision: str

    @property
    def reason(self) -> str | None:
        """Why the image failed, in one word; None where it did not."""
        return None if self.error is None else self.error.partition(":")[0]


_COLUMNS = Outcome.__struct_fields__


def read_outcomes(data: bytes, format: Format) -> list[Outcome]:
    """Return what the rows of a part say.

    Raises:
        ValueError: it is no part of that format, or its columns are not those of one.
    """
    try:
        return _READERS[format](data)
    except (msgspec.MsgspecError, csv.Error, KeyError) as error:
        raise ValueError(str(error) or "columns are missing") from error


def _read_jsonl(data: bytes) -> list[Outcome]:
    return msgspec.json.Decoder(Outcome).decode_lines(data)


def _read_csv(data: bytes) -> list[Outcome]:
    rows = csv_rows(data)
    header = next(rows, [])
    at = [header.index(name) for name in _COLUMNS]
    # An empty field is null, but in columns of text that is never null.
    nullable = {"error", "bytes", "sha256", "label", "score"}
    return [
        msgspec.convert(
            {name: None if not row[i] and name in nullable else row[i] for name, i in zip(_COLUMNS, at, strict=True)},
            Outcome,
            strict=False,
        )
        for row in rows
    ]


def _read_parquet(data: bytes) -> list[Outcome]:
    import pyarrow as pa  # noqa: PLC0415 # 0.2 s that the other formats need not wait for
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {"bytes": pa.int64(), "score": pa.float32()}
    try:
        # Without Arrow's threads, for the reason that `output` gives.
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(_COLUMNS), use_threads=False)
        # What the schema promises need not be asked of each value.
        columns = [table[name].cast(types.get(name, pa.string())).to_pylist() for name in _COLUMNS]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return [Outcome(**dict(zip(_COLUMNS, row, strict=True))) for row in zip(*columns, strict=True)]


_READERS: dict[Format, Callable[[bytes], list[Outcome]]] = {
    "parquet": _read_parquet,
    "csv": _read_csv,
    "jsonl": _read_jsonl,
}
