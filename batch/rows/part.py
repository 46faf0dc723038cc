"""The part of a chunk: its rows as a file. The same chunk gives the same bytes, whoever makes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.rows.formats import encode_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batch.inputs.plan import ImageFile
    from batch.rows.columns import Row
    from batch.rows.formats import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The file of a chunk, with counts of its rows.

    Attributes:
        data: the file's bytes.
        errors: number of failed rows, by reason.
        in_class_folders: number of rows whose image is in a folder named like one of the model's labels.
        correct: number of those whose top label is that folder's name.
    """

    data: bytes
    rows: int
    errors: dict[str, int]
    in_class_folders: int
    correct: int


def part_of(rows: Sequence[Row], files: Sequence[ImageFile], columns: Columns, *, labels: Iterable[str]) -> Part:
    """Return the part of a chunk from its rows, one for each file, in order."""
    classes = frozenset(labels)
    folders = [file.label(classes) for file in files]
    errors = Counter(row.error.partition(":")[0] for row in rows if row.error is not None)
    return Part(
        data=encode_rows(rows, columns),
        rows=len(rows),
        errors=dict(sorted(errors.items())),
        in_class_folders=sum(folder is not None for folder in folders),
        correct=sum(folder == row.label for folder, row in zip(folders, rows, strict=True)),
    )
