"""Parts as JSON Lines: one object for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from batch.rows.columns import to_float32, to_floats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.rows.columns import Row

LIBRARY = "msgspec"

_T = TypeVar("_T")


def encode(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Return the rows as a file."""
    encoder = msgspec.json.Encoder(enc_hook=to_floats)
    return encoder.encode_lines({name: getattr(row, name) for name in columns} for row in rows)


def decode(data: bytes, type: type[_T]) -> list[_T]:
    """Return each row as a `type`.

    Raises:
        ValueError: a line is not JSON, or is not such a row.
    """
    try:
        return msgspec.json.Decoder(type, dec_hook=to_float32).decode_lines(data)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
