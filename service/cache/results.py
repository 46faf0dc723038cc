"""The result cache as the endpoints see it: an image's SHA-256 → its scores, from this process or from a Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from service.cache.values import pack, sealed, unpack, unsealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.cache.memory import MemoryCache
    from service.cache.shared import SharedCache

Level = Literal["memory", "redis"]

PREFIX = b"tandem:v1:"
"""Of every key in a Redis. Another form of keys or values needs another number."""


@dataclass(slots=True)
class Counts:
    """What one level did so far.

    Attributes:
        errors: failures of the level itself; they count as misses, too.
    """

    hits: int = 0
    misses: int = 0
    errors: int = 0


class ResultCache:
    """Keeps the scores of images that were classified. For one event loop, and for one model on one engine.

    Only scores are kept, never a refusal: that can depend on the memory of the moment.

    Args:
        shaping: `Shaping.sha256` of the model; 32 bytes.
        classes: how many scores an image has.
        memory: the level of this process; None for none.
        shared: the level that replicas share; None for none.

    """

    def __init__(
        self, *, shaping: bytes, classes: int, memory: MemoryCache | None = None, shared: SharedCache | None = None
    ) -> None:
        self._shaping = shaping
        self._classes = classes
        self._memory = memory
        self._shared = shared
        # Half of the hash is plenty for a name; the checksum of a value is bound to all of it.
        self._prefix = PREFIX + shaping[:16].hex().encode() + b":"
        self._counts: dict[Level, Counts] = {}
        if memory is not None:
            self._counts["memory"] = Counts()
        if shared is not None:
            self._counts["redis"] = Counts()

    @property
    def counts(self) -> dict[Level, Counts]:
        """What each level that is used did so far."""
        if self._shared is not None:
            self._counts["redis"].errors = self._shared.errors
        return self._counts

    @property
    def dropped(self) -> int:
        """Number of results that were meant for the Redis and not written."""
        return 0 if self._shared is None else self._shared.dropped

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the level of this process takes."""
        return 0 if self._memory is None else self._memory.held_bytes

    async def get(self, image_sha256: bytes) -> tuple[NDArray[np.float32], Level] | None:
        """Return the scores `[classes]` of an image, read-only, and the level that had them; None if none has."""
        if self._memory is not None:
            packed = self._memory.get(image_sha256)
            if packed is not None:
                self._counts["memory"].hits += 1
                return unpack(packed), "memory"
            self._counts["memory"].misses += 1
        if self._shared is not None:
            packed = await self._look_up(self._shared, image_sha256)
            if packed is not None:
                return unpack(packed), "redis"
        return None

    async def _look_up(self, shared: SharedCache, image_sha256: bytes) -> bytes | None:
        """Return the packed scores of an image if the Redis answers with them; this process keeps them, too."""
        value = await shared.get(self._name(image_sha256))
        packed = unsealed(value, self._shaping + image_sha256, classes=self._classes)
        counts = self._counts["redis"]
        if packed is None:
            counts.misses += 1
            shared.errors += value is not None  # garbage
            return None
        counts.hits += 1
        if self._memory is not None:
            self._memory.put(image_sha256, packed)
        return packed

    def put(self, image_sha256: bytes, scores: NDArray[np.float32]) -> None:
        """Keep the scores `[classes]` of an image. Never waits; a Redis gets them in the background."""
        if not np.isfinite(scores).all():
            return  # `Model.check_finite` refuses the image, each time
        packed = pack(scores)
        if self._memory is not None:
            self._memory.put(image_sha256, packed)
        if self._shared is not None:
            self._shared.put(self._name(image_sha256), sealed(packed, self._shaping + image_sha256))

    async def close(self) -> None:
        """Write what waits for the Redis, within a second, and close its connections."""
        if self._shared is not None:
            await self._shared.close()

    def _name(self, image_sha256: bytes) -> bytes:
        return self._prefix + image_sha256.hex().encode()
