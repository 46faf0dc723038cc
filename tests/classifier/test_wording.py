"""Numbers as people write them."""

from __future__ import annotations

import pytest

from classifier.wording import counted, name_some, one_line, table_lines


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1_001, "1,001 images")]
)
def test_one_is_singular(number: int, said: str) -> None:
    """1 is singular, every other number plural; thousands are separated."""
    assert counted(number, "image") == said


def test_printable_text_is_one_line() -> None:
    """Line breaks and escape sequences of a terminal become spaces; letters of all scripts stay."""
    assert one_line("a\nb\x1b[2Jé日") == "a b [2Jé日"


def test_a_table_is_as_wide_as_its_cells() -> None:
    """Without trailing blanks, and without control characters."""
    assert table_lines(("A", "LONG"), [("wide cell", "x"), ("\x1b[2J", "")]) == [
        "A          LONG",
        "wide cell  x",
        " [2J",
    ]


def test_name_some() -> None:
    """It names the first few and counts the rest."""
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(range(1007)) == "0, 1, 2, 3, 4 and 1,002 more"
