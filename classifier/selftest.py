"""The golden set: a few real images with the scores that they must get, replayed wherever a model is opened."""

from __future__ import annotations

import io
import itertools
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np

from classifier.artifact import GOLDEN
from classifier.errors import DamagedArtifact, ImageError, SelfTestFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.model import Model
    from classifier.types import EngineInfo, Precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GoldenSet:
    """Images and the scores that the network had for them where it was exported: the artifact's `golden.npz`.

    Attributes:
        images: the encoded bytes of each image, so that decoding is tested too.
        scores: the probabilities of the torch network in fp32, float32 `[N, classes]`.
        tolerances: by how much a score may differ from these, for each precision.
    """

    images: tuple[bytes, ...]
    scores: NDArray[np.float32]
    tolerances: Mapping[Precision, float]

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a golden set wants at least one image")
        if self.scores.dtype != np.float32 or self.scores.ndim != 2 or len(self.scores) != len(self.images):
            raise ValueError(
                f"a golden set of {len(self.images)} images wants float32 scores [{len(self.images)}, classes], "
                f"got {self.scores.dtype} {list(self.scores.shape)}"
            )
        if not all(tolerance >= 0 for tolerance in self.tolerances.values()):
            raise ValueError(f"a golden set wants tolerances of 0 or more, got {dict(self.tolerances)}")

    def to_bytes(self) -> bytes:
        """Return the set as an uncompressed .npz, the same bytes for the same set.

        The images stand end to end in `images`; image i is `images[offsets[i]:offsets[i + 1]]`.
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
            DamagedArtifact: the bytes are no golden set.
        """
        try:
            _check_sizes(data)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                images, offsets = arrays["images"].tobytes(), arrays["offsets"].tolist()
                if offsets != sorted(offsets) or [offsets[0], offsets[-1]] != [0, len(images)]:
                    raise ValueError(f"offsets {offsets} don't divide {len(images)} bytes")
                return cls(
                    images=tuple(images[start:end] for start, end in itertools.pairwise(offsets)),
                    scores=arrays["scores"],
                    tolerances=dict(zip(arrays["precisions"].tolist(), arrays["tolerances"].tolist(), strict=True)),
                )
        # What np.load and zipfile raise on bytes that aren't theirs: a member with an unknown compression is a
        # NotImplementedError, which is a RuntimeError; an array may claim to be larger than any memory.
        except (
            *(ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error),
            *(MemoryError, OverflowError),
        ) as error:
            raise DamagedArtifact(
                f"{GOLDEN} of the model is not a golden set ({str(error) or 'cut short'}); export the model again"
            ) from error


def _check_sizes(data: bytes) -> None:
    """Raise ValueError where the archive holds more than its own bytes: `to_bytes` compresses nothing."""
    with ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(data):
            raise ValueError("it is compressed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestReport:
    """A golden set that was replayed and passed.

    Attributes:
        images: how many were replayed.
        max_difference: the largest distance of a score from the expected one.
        tolerance: the distance that is allowed at the engine's precision.
        engine: what ran.
    """

    images: int
    max_difference: float
    tolerance: float
    engine: EngineInfo
    elapsed_s: float


def self_test(model: Model) -> SelfTestReport:
    """Return a report of the model's golden set, decoded and run as any other image is.

    Two facts are tested: the scores are the expected ones, within the tolerance of the precision that runs, and each
    image's scores are the same bits alone as in a batch.

    Raises:
        SelfTestFailed: one of them does not hold.
        DamagedArtifact: the golden set is not of this model.
    """
    started = time.perf_counter()
    golden, info = model.golden, model.engine.info
    tolerance = golden.tolerances.get(info.precision)
    if tolerance is None:
        raise DamagedArtifact(
            f"{GOLDEN} of {model.identity} has no tolerance for precision '{info.precision}'; export the model again"
        )
    try:
        images_nhwc = np.stack([model.decode(image).pixels for image in golden.images])
    except ImageError as error:
        raise SelfTestFailed(
            f"{model.identity} failed its self-test: a golden image does not decode here ({error}); "
            "'tandem doctor' shows what is installed"
        ) from error
    scores = model.scores(images_nhwc)
    if scores.shape != golden.scores.shape:
        raise DamagedArtifact(
            f"{GOLDEN} of {model.identity} has scores {list(golden.scores.shape)} where the graph gives "
            f"{list(scores.shape)}; export the model again"
        )
    difference = float(np.abs(scores - golden.scores).max())
    if not difference <= tolerance:  # so written, a NaN fails
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {describe(info)}: a score is {difference:.3g} away from the "
            f"expected one, and {tolerance:.3g} is allowed; choose another engine, device or precision"
        )
    if not are_independent(model.engine, images_nhwc, scores):
        raise SelfTestFailed(
            f"{model.identity} failed its self-test on {describe(info)}: an image's scores depend on the images beside "
            "it; choose another engine or device"
        )
    return SelfTestReport(
        images=len(golden.images),
        max_difference=difference,
        tolerance=tolerance,
        engine=info,
        elapsed_s=time.perf_counter() - started,
    )


def are_independent(engine: Engine, images_nhwc: NDArray[np.uint8], scores: NDArray[np.float32]) -> bool:
    """Return whether each image's scores are the same bits alone as in a batch, where they were `scores`."""
    alone = np.concatenate([engine.run(image[np.newaxis]) for image in images_nhwc])
    return alone.tobytes() == scores.tobytes()


def describe(info: EngineInfo) -> str:
    """Return an engine as one reads it, `onnxruntime 1.31.1, cpu (avx512_vnni), fp32`."""
    batch = "" if info.batch_size is None else f", batches of {info.batch_size}"
    return f"{info.name} {info.version}, {info.device} ({info.instruction_set}), {info.precision}{batch}"
