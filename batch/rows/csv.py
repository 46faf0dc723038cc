"""Parts as CSV (RFC 4180). Null is an empty field; `top_k`, `scores` and `embedding` are JSON."""

from __future__ import annotations

import csv
import io
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from batch.rows.columns import to_float32, to_floats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.rows.columns import Row

LIBRARY = "msgspec"

_T = TypeVar("_T")

_JSON = frozenset({"top_k", "scores", "embedding"})
_NULLABLE = _JSON | {"error", "width", "height", "bytes", "sha256", "label", "score"}


def encode(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Return the rows as a file with a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its line ends are RFC 4180's: CR and LF in a file name are quoted
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_to_field(getattr(row, name)) for name in columns)
    return text.getvalue().encode()


def decode(data: bytes, type: type[_T]) -> list[_T]:
    """Return each row as a `type`.

    Raises:
        ValueError: the file is not such CSV, or lacks a column.
    """
    # The default limit of 128 KiB is less than the scores of some 6,000 labels.
    csv.field_size_limit(sys.maxsize)
    try:
        rows = csv.reader(io.StringIO(data.decode(), newline=""))
        header = next(rows, [])
        wanted = [(name, at) for at, name in enumerate(header) if name in type.__annotations__]
        return [
            msgspec.convert(
                {name: _from_field(name, row[at]) for name, at in wanted}, type, strict=False, dec_hook=to_float32
            )
            for row in rows
        ]
    except (msgspec.MsgspecError, csv.Error, IndexError) as error:
        raise ValueError(str(error)) from error


def _to_field(value: object) -> object:
    if isinstance(value, (tuple, np.ndarray)):
        return msgspec.json.encode(value, enc_hook=to_floats).decode()
    return value


def _from_field(name: str, field: str) -> Any:
    if field == "" and name in _NULLABLE:
        return None
    return msgspec.json.decode(field) if name in _JSON else field
