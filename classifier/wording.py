"""How numbers are said."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 image` or `2,000 images`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
