"""Scores as bytes: every bit comes back, and nothing else passes for scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.cache.values import pack, sealed, unpack, unsealed

KEY = bytes(range(64))
SCORES = arrays(np.float32, st.integers(2, 40), elements=st.floats(width=32, allow_nan=False))


@given(SCORES)
def test_every_bit_comes_back(scores: np.ndarray) -> None:
    """Denormals, negative zero and infinity included; what is given out can't be changed."""
    packed = unsealed(sealed(pack(scores), KEY), KEY, classes=len(scores))
    assert packed is not None
    back = unpack(packed)
    assert back.dtype == np.float32
    assert back.tobytes() == scores.tobytes()
    assert not back.flags.writeable


def test_denormals_are_not_flushed() -> None:
    """The smallest float32 keeps its one bit."""
    scores = np.array([2**-149, -0.0, 1.0], np.float32)
    assert unpack(pack(scores)).view(np.uint32).tolist() == [1, 0x80000000, 0x3F800000]


@given(SCORES, st.data())
def test_a_changed_value_is_none(scores: np.ndarray, data: st.DataObject) -> None:
    """One flipped bit, wherever it is, makes a value worthless."""
    value = bytearray(sealed(pack(scores), KEY))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert unsealed(bytes(value), KEY, classes=len(scores)) is None


@given(st.one_of(st.none(), st.binary(max_size=200), st.text(), st.integers(), st.lists(st.binary())))
def test_garbage_is_none(value: object) -> None:
    """Whatever a Redis returns, only a sealed value is scores."""
    assert unsealed(value, KEY, classes=10) is None


def test_the_value_of_another_key_is_none() -> None:
    """A value that was copied under another key, or has other classes, is refused."""
    value = sealed(pack(np.ones(10, np.float32)), KEY)
    assert unsealed(value, KEY, classes=10) is not None
    assert unsealed(value, bytes(64), classes=10) is None
    assert unsealed(value, KEY, classes=9) is None
