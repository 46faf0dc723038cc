"""The shared values: read from any JSON or refused, and shown to people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from classifier.types import Preprocessing, from_json

if TYPE_CHECKING:
    from classifier.model import Model


@pytest.mark.parametrize("start", [b"", b'{"resize_size": ', b'{"unknown": '])
@pytest.mark.parametrize("bracket", [b"[", b'{"a": '])
def test_deeply_nested_json_is_malformed(start: bytes, bracket: bytes) -> None:
    """A few kilobytes of brackets are refused like any other malformed JSON."""
    with pytest.raises(ValueError, match=r"nested|malformed|truncated|Expected"):
        from_json(start + bracket * 100_000, Preprocessing)


def test_an_engine_reads_as_one_line(digits_model: Model) -> None:
    info = replace(digits_model.engine.info, version="1.31.1", instruction_set="avx2")
    assert str(info) == "onnxruntime 1.31.1, cpu (avx2), fp32"
    info = replace(info, device="cuda:0", instruction_set="sm_90", batch_size=32)
    assert str(info) == "onnxruntime 1.31.1, cuda:0 (sm_90), fp32, batches of 32"
