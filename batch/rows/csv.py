"""Parts as CSV (RFC 4180). Null is an empty field; `top_k`, `scores` and `embedding` are JSON.

A spreadsheet runs a field as a formula if it begins with one of a few characters, and file names and labels can. With
`escape_formulas`, an apostrophe stands before such a field, as OWASP advises, and it reads back without that.
"""

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

_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
_APOSTROPHE = "'"

_JSON = frozenset({"top_k", "scores", "embedding"})
_NULLABLE = _JSON | {"error", "width", "height", "bytes", "sha256", "label", "score"}


def encode(rows: Sequence[Row], columns: Sequence[str], *, escape_formulas: bool = False) -> bytes:
    """Return the rows as a file with a header."""
    text = io.StringIO(newline="")
    # Its line ends are RFC 4180's: CR and LF in a file name are quoted. If formulas are escaped, all is quoted, because
    # a spreadsheet may split other fields at a semicolon.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if escape_formulas else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    for row in rows:
        fields = (_to_field(getattr(row, name)) for name in columns)
        writer.writerow(map(_escape, fields) if escape_formulas else fields)
    return text.getvalue().encode()


def decode(data: bytes, type: type[_T], *, escape_formulas: bool = False) -> list[_T]:
    """Return each row as a `type`.

    Raises:
        ValueError: the file is not such CSV, or lacks a column.
    """
    # The default limit of 128 KiB is less than the scores of some 6,000 labels.
    csv.field_size_limit(sys.maxsize)
    unescape = _unescape if escape_formulas else str
    try:
        rows = csv.reader(io.StringIO(data.decode(), newline=""))
        header = next(rows, [])
        wanted = [(name, at) for at, name in enumerate(header) if name in type.__annotations__]
        return [
            msgspec.convert(
                {name: _from_field(name, unescape(row[at])) for name, at in wanted},
                type,
                strict=False,
                dec_hook=to_float32,
            )
            for row in rows
        ]
    except (msgspec.MsgspecError, csv.Error, IndexError) as error:
        raise ValueError(str(error)) from error


def _to_field(value: object) -> object:
    if isinstance(value, (tuple, np.ndarray)):
        return msgspec.json.encode(value, enc_hook=to_floats).decode()
    return value


def _escape(field: object) -> object:
    # An apostrophe is escaped, too, so that `_unescape` gives every field back.
    if isinstance(field, str) and (field[:1] in _FORMULA or field[:1] == _APOSTROPHE):
        return _APOSTROPHE + field
    return field


def _unescape(field: str) -> str:
    return field.removeprefix(_APOSTROPHE)


def _from_field(name: str, field: str) -> Any:
    if field == "" and name in _NULLABLE:
        return None
    return msgspec.json.decode(field) if name in _JSON else field
