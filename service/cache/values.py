"""The scores of one image as bytes: float32, little-endian, and behind them a checksum that is bound to their key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOAT32 = np.dtype("<f4")
_CHECKSUM_BYTES = 16


def pack(scores: NDArray[np.float32]) -> bytes:
    """Return the scores `[classes]` as bytes, every bit of them."""
    return scores.astype(_FLOAT32, copy=False).tobytes()


def unpack(packed: bytes) -> NDArray[np.float32]:
    """Return the scores `[classes]` that `pack` was given. They are read-only."""
    return np.frombuffer(packed, _FLOAT32).astype(np.float32, copy=False)


def sealed(packed: bytes, key: bytes) -> bytes:
    """Return packed scores with a checksum over them and the key that they belong to."""
    return packed + _checksum(packed, key)


def unsealed(value: object, key: bytes, *, classes: int) -> bytes | None:
    """Return the packed scores of so many classes in a sealed value; None if it is anything else.

    What a Redis returns may be anything: another program's value, a truncated one, or that of another key.
    """
    if not isinstance(value, bytes) or len(value) != classes * _FLOAT32.itemsize + _CHECKSUM_BYTES:
        return None
    packed, checksum = value[:-_CHECKSUM_BYTES], value[-_CHECKSUM_BYTES:]
    return packed if checksum == _checksum(packed, key) else None


def _checksum(packed: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(packed, key=key, digest_size=_CHECKSUM_BYTES).digest()
