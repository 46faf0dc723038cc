"""JSON from outside: a value, or one error."""

from __future__ import annotations

import pytest

from classifier.types import Preprocessing, from_json


@pytest.mark.parametrize("start", [b"", b'{"resize_size": ', b'{"unknown": '])
@pytest.mark.parametrize("bracket", [b"[", b'{"a": '])
def test_deeply_nested_json_is_malformed(start: bytes, bracket: bytes) -> None:
    """A few kilobytes of brackets are refused like any other malformed JSON."""
    with pytest.raises(ValueError, match=r"nested|malformed|truncated|Expected"):
        from_json(start + bracket * 100_000, Preprocessing)
