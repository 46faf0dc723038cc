"""The formats of part files.

A new format is a module beside this one, its name in `Format`, and its line in `_FORMATS`. Each format
writes the same bytes for the same rows and the same library version, and reads back the same float32 scores and
embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, get_args

from batch.rows import csv, jsonl, parquet
from batch.rows.columns import COLUMNS, Outcome, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)


class _FormatModule(Protocol):
    LIBRARY: str
    """The package whose version shapes the bytes."""

    def encode(self, rows: Sequence[Row], columns: Sequence[str]) -> bytes:
        """Return the rows as a file with these columns."""

    def decode(self, data: bytes, type: type[_T]) -> list[_T]:
        """Return each row as a `type`, whose fields name the columns that are read.

        Raises:
            ValueError: the file is malformed, or a column is missing or of another type.
        """


_FORMATS: dict[Format, _FormatModule] = {"parquet": parquet, "csv": csv, "jsonl": jsonl}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """How rows are written.

    Attributes:
        format: of the part files.
        top_k: how many labels `top_k` lists.
        all_scores: whether there is a column `scores`.
        embeddings: whether there is a column `embedding`.
        escape_formulas: whether CSV fields that a spreadsheet would run are escaped.
    """

    format: Format = "parquet"
    top_k: int = 5
    all_scores: bool = False
    embeddings: bool = False
    escape_formulas: bool = False

    def __post_init__(self) -> None:
        if self.escape_formulas and self.format != "csv":
            raise ValueError(f"escape_formulas is of the format csv, got {self.format}")


def encode_rows(rows: Sequence[Row], columns: Columns) -> bytes:
    """Return the rows as a file with these columns, the same bytes for the same rows."""
    optional = {"scores": columns.all_scores, "embedding": columns.embeddings}
    names = tuple(name for name in COLUMNS if optional.get(name, True))
    if columns.escape_formulas:
        return csv.encode(rows, names, escape_formulas=True)
    return _FORMATS[columns.format].encode(rows, names)


def read_rows(data: bytes, columns: Columns) -> list[Row]:
    """Return the rows of a part. `encode_rows` makes the same bytes of them.

    Raises:
        ValueError: the data is not a part in that format.
    """
    return _decode(data, columns, Row)


def read_outcomes(data: bytes, columns: Columns) -> list[Outcome]:
    """Return the rows of a part without their lists of scores.

    Raises:
        ValueError: the data is not a part in that format.
    """
    return _decode(data, columns, Outcome)


def _decode(data: bytes, columns: Columns, type: type[_T]) -> list[_T]:
    if columns.escape_formulas:
        return csv.decode(data, type, escape_formulas=True)
    return _FORMATS[columns.format].decode(data, type)


def library_of(format: Format) -> str:
    """Return the package whose version shapes a format's bytes."""
    return _FORMATS[format].LIBRARY
