"""Numbers, times and text as people read them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NAMED_IN_ERRORS = 5
"""How many names a message lists."""


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: `1 image`, `2,000 images`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def tally(counts: Mapping[str, int]) -> str:
    """Return counts by reason as text, sorted: `3 hidden, 2 symbolic link`."""
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `2 d 3 h`, `5 min 10 s`."""
    left = round(seconds)
    units: list[str] = []
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length_s)
        if count or units:
            units.append(f"{count:,} {unit}")
    return " ".join(units[:2]) or "0 s"


def name_some(names: Iterable[object], *, limit: int = NAMED_IN_ERRORS) -> str:
    """Return the first few names and the number of the rest, for a message."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def one_line(text: str) -> str:
    """Return `text` on one line, without control characters: it can't move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str) -> str:
    """Return `text` with its control and direction characters as Python writes them, so that they are visible."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def utf8_text(path: str | os.PathLike[str]) -> str:
    r"""Return a path as UTF-8 text: a byte that is not UTF-8 is written as `\xff`. Control characters stay."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns are as wide as their cells.

    Cells hold text of models and registries, so control characters are removed.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
