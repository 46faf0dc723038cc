"""How numbers are said."""

from __future__ import annotations

import pytest

from classifier.wording import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1_001, "1,001 images")]
)
def test_one_is_singular(number: int, said: str) -> None:
    """One is singular, any other number plural, and thousands can be read."""
    assert counted(number, "image") == said
