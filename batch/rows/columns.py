r"""The columns of the output: one row for each image.

| column | Parquet | what |
|---|---|---|
| `path` | string | path below the input folder, with `/`; a byte that is not UTF-8 is written as `\xNN` |
| `input` | string | the INPUT that holds the image, as it was given; `input/path` opens the image |
| `status` | string | `ok` or `error` |
| `error` | string | `reason: message`; null if the status is `ok` |
| `width`, `height` | int32 | pixels, after the EXIF orientation; null if the image could not be decoded |
| `bytes`, `sha256` | int64, string | of the file; null if it could not be read |
| `label`, `score` | string, float32 | the top label and its softmax probability; null on an error |
| `top_k` | list of struct of label, score | the best labels, best first; null on an error |
| `scores` | list of float32 | with `--scores all`: the score of every label, in the model's order; null on an error |
| `embedding` | list of float32 | with `--embeddings`: the input of the network's last layer; null on an error |
| `model` | string | `digits@sha256:…` |
| `engine`, `device`, `precision` | string | what ran the model: `onnxruntime 1.31.1`, `cpu`, `fp32` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray  # noqa: TC002 # msgspec reads the annotations

from classifier.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.pipeline.inference import ScoredImage
    from classifier.model import Model

SCHEMA_VERSION = 1
"""Version of the columns. It rises when a column is removed or changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A label and its probability: an element of `top_k`."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One image of the output. The fields are the columns, in their order."""

    path: str
    input: str
    status: Literal["ok", "error"]
    error: str | None
    width: int | None
    height: int | None
    bytes: int | None
    sha256: str | None
    label: str | None
    score: float | None
    top_k: tuple[Score, ...] | None
    scores: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None
    model: str
    engine: str
    device: str
    precision: str


COLUMNS: tuple[str, ...] = Row.__slots__


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A row without its lists of scores, which is quick to read. The fields are columns of the same names."""

    path: str
    input: str
    status: Literal["ok", "error"]
    error: str | None
    bytes: int | None
    sha256: str | None
    label: str | None
    score: float | None
    model: str
    engine: str
    device: str
    precision: str

    @property
    def reason(self) -> str | None:
        """Why the image failed, in one word; None if it did not fail."""
        return None if self.error is None else self.error.partition(":")[0]


def make_rows(images: Sequence[ScoredImage], model: Model, *, top_k: int) -> list[Row]:
    """Return the rows of the images, each with its `top_k` best labels."""
    scores = [image.scores for image in images if image.scores is not None]
    best = iter(_best(np.stack(scores), model, top_k) if scores else ())
    info = model.engine.info
    of_run = {
        "model": model.identity,
        "engine": f"{info.name} {info.version}",
        "device": info.device,
        "precision": info.precision,
    }
    return [_make_row(image, None if image.scores is None else next(best), of_run) for image in images]


def _best(scores: NDArray[np.float32], model: Model, k: int) -> Iterator[tuple[Score, ...]]:
    labels, best = model.config.labels, model.best(scores, k)
    for indices, of_row in zip(best.tolist(), np.take_along_axis(scores, best, axis=1).tolist(), strict=True):
        yield tuple(Score(label=labels[index], score=score) for index, score in zip(indices, of_row, strict=True))


def _make_row(image: ScoredImage, best: tuple[Score, ...] | None, of_run: dict[str, Any]) -> Row:
    loaded = image.loaded
    failed = loaded.image if isinstance(loaded.image, ImageError) else None
    decoded = None if isinstance(loaded.image, ImageError) else loaded.image
    return Row(
        path=loaded.file.printable_path,
        input=loaded.file.printable_input,
        status="error" if failed else "ok",
        error=f"{failed.reason}: {failed}" if failed else None,
        width=decoded.width if decoded else None,
        height=decoded.height if decoded else None,
        bytes=loaded.bytes,
        sha256=loaded.sha256,
        label=best[0].label if best else None,
        score=best[0].score if best else None,
        top_k=best,
        scores=image.scores,
        embedding=image.embedding,
        **of_run,
    )


def to_floats(numbers: NDArray[np.float32]) -> list[float]:
    """Return float32 numbers as doubles. The shortest text of each reads back as the same float32."""
    floats: list[float] = numbers.tolist()
    return floats


def to_float32(_: object, numbers: Any) -> NDArray[np.float32]:
    """Return a list of numbers as float32: msgspec's hook for arrays."""
    return np.array(numbers, dtype=np.float32)
