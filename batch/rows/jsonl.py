"""Parts as JSON Lines: one object for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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


def to_floats(numbers: NDArray[np.float32]) -> list[float]:
    """Return float32 numbers as doubles. The shortest text of each reads back as the same float32."""
    floats: list[float] = numbers.tolist()
    return floats


def to_float32(_: object, numbers: Any) -> NDArray[np.float32]:
    """Return a list of numbers as float32: msgspec's hook for arrays."""
    return np.array(numbers, dtype=np.float32)
