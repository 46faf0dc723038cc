"""The golden set: a few real images and the scores that the network gave them when it was exported."""

from __future__ import annotations

import io
import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np

from classifier.artifact import GOLDEN
from classifier.errors import DamagedArtifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier.types import Precision

MAX_IMAGES = 1_000
"""Each start decodes and runs all images of the set twice. `tandem export` takes 16."""

_END_BYTES = 22
_MAX_MEMBERS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GoldenSet:
    """Images and their expected scores: the artifact's `golden.npz`.

    Attributes:
        images: the encoded bytes of each image, so that decoding is tested too.
        scores: the probabilities that the torch network gave in fp32, float32 `[N, classes]`.
        tolerances: for each precision, how much a score may differ.
    """

    images: tuple[bytes, ...]
    scores: NDArray[np.float32]
    tolerances: Mapping[Precision, float]

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a golden set needs at least one image")
        if self.scores.dtype != np.float32 or self.scores.ndim != 2 or len(self.scores) != len(self.images):
            raise ValueError(
                f"a golden set of {len(self.images)} images needs float32 scores [{len(self.images)}, classes], "
                f"got {self.scores.dtype} {list(self.scores.shape)}"
            )
        if not all(tolerance >= 0 for tolerance in self.tolerances.values()):
            raise ValueError(f"a golden set needs tolerances of 0 or more, got {dict(self.tolerances)}")

    def to_bytes(self) -> bytes:
        """Return the set as an uncompressed .npz; equal sets give equal bytes.

        The array `images` holds all images end to end; image i is `images[offsets[i]:offsets[i + 1]]`.
        """
        precisions = sorted(self.tolerances)
        file = io.BytesIO()
        # np.savez dates every member 1980-01-01, so the bytes don't depend on the clock.
        np.savez(
            file,
            images=np.frombuffer(b"".join(self.images), dtype=np.uint8),
            offsets=np.cumsum([0, *map(len, self.images)], dtype=np.int64),
            scores=self.scores,
            precisions=np.array(precisions, dtype="U16"),
            tolerances=np.array([self.tolerances[precision] for precision in precisions], dtype=np.float64),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> GoldenSet:
        """Return the set that `to_bytes` wrote. Nothing is unpickled.

        Raises:
            DamagedArtifact: the bytes are not a golden set.
        """
        try:
            _check_sizes(data)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                _check_count(arrays["offsets"])
                images, offsets = arrays["images"].tobytes(), arrays["offsets"].tolist()
                if offsets != sorted(offsets) or [offsets[0], offsets[-1]] != [0, len(images)]:
                    raise ValueError(f"offsets {offsets} don't divide {len(images)} bytes")
                return cls(
                    images=tuple(images[start:end] for start, end in itertools.pairwise(offsets)),
                    scores=arrays["scores"],
                    tolerances=dict(zip(arrays["precisions"].tolist(), arrays["tolerances"].tolist(), strict=True)),
                )
        # All that np.load and zipfile raise on foreign bytes. RuntimeError covers NotImplementedError, for an unknown
        # compression; MemoryError and OverflowError are for arrays that claim to be larger than memory.
        except (
            *(ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error),
            *(MemoryError, OverflowError),
        ) as error:
            raise DamagedArtifact(
                f"{GOLDEN} of the model is not a golden set ({str(error) or 'cut short'}); export the model again"
            ) from error


def _check_count(offsets: NDArray[np.int64]) -> None:
    """Raise ValueError unless the offsets are those of at most `MAX_IMAGES` images."""
    if offsets.ndim != 1 or not 1 < len(offsets) <= MAX_IMAGES + 1:
        raise ValueError(f"it has offsets {list(offsets.shape)}, but 1 to {MAX_IMAGES:,} images are allowed")


def _check_sizes(data: bytes) -> None:
    """Raise ValueError if the archive has many members, or unpacks to more than its own size.

    `to_bytes` compresses nothing, and ends the archive with a record of 22 bytes: its members' number is at 10, the
    size of their list at 12. A record for large archives would stand 20 bytes before it.
    """
    end = data[-_END_BYTES:]
    count, listed = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if not end.startswith(b"PK\5\6") or data[-_END_BYTES - 20 :].startswith(b"PK\6\7"):
        raise ValueError("it is not an archive of arrays")
    if count > _MAX_MEMBERS or listed > _MAX_MEMBERS * 256:
        raise ValueError("it has more arrays than a golden set")
    with ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(data):
            raise ValueError("it is compressed")
