r"""What comes out: one row per image, and the formats that it is written in.

| column | Parquet | what |
|---|---|---|
| `path` | string | below the input folder, with `/`; a byte that is not UTF-8 stands as `\xNN` |
| `input` | string | the INPUT that it was found in, as it was named; `input/path` opens the image |
| `status` | string | `ok` or `error` |
| `error` | string | `reason: message`; null where the status is `ok` |
| `width`, `height` | int32 | in pixels, after the EXIF orientation; null where the image could not be decoded |
| `bytes`, `sha256` | int64, string | of the file; null where it could not be read |
| `label`, `score` | string, float32 | the top label and its softmax probability; null on an error |
| `top_k` | list of struct of label, score | the best labels, the best first; null on an error |
| `scores` | list of float32 | with `--scores all`: of every label, in the model's order; null on an error |
| `embedding` | list of float32 | with `--embeddings`: what the network's last layer takes; null on an error |
| `model` | string | `digits@sha256:…` |
| `engine`, `device`, `precision` | string | what ran it: `onnxruntime 1.31.1`, `cpu`, `fp32` |

CSV is that of RFC 4180; in it `top_k`, `scores` and `embedding` are JSON, and null is an empty field. Scores and
embeddings are written so that they give the same float32 when they are read. The bytes of a part depend on its rows and
on the libraries' versions alone.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import numpy as np

from batch.rows.parquet import encode_table
from classifier.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from batch.pipeline.inference import ScoredImage
    from classifier.model import Model

SCHEMA_VERSION = 1
"""Of the columns. It rises when one changes its meaning or goes."""

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """How rows are written.

    Attributes:
        top_k: how many labels `top_k` lists.
        all_scores: whether there is a column `scores`.
        embeddings: whether there is a column `embedding`.
    """

    format: Format = "parquet"
    top_k: int = 5
    all_scores: bool = False
    embeddings: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A label and its probability: an element of `top_k`."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One image of the output; its fields are the columns, in their order."""

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
    scores: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None
    model: str
    engine: str
    device: str
    precision: str


def make_rows(images: Sequence[ScoredImage], model: Model, *, top_k: int) -> list[Row]:
    """Return the rows of images."""
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


def encode_rows(rows: Sequence[Row], format: Format, *, all_scores: bool, embeddings: bool = False) -> bytes:
    """Return the rows as a file of that format, the same bytes for the same rows."""
    optional = {"scores": all_scores, "embedding": embeddings}
    columns = tuple(name for name in Row.__slots__ if optional.get(name, True))
    return _ENCODERS[format](rows, columns)


def read_rows(data: bytes, format: Format) -> list[Row]:
    """Return the rows of a part: `encode_rows` of them gives the same bytes."""
    return [_to_row(fields) for fields in _READERS[format](data)]


def _to_row(fields: dict[str, Any]) -> Row:
    for name in ("scores", "embedding"):
        numbers = fields.get(name)
        fields[name] = None if numbers is None else np.array(numbers, dtype=np.float32)
    top_k = fields["top_k"]
    fields["top_k"] = None if top_k is None else msgspec.convert(top_k, tuple[Score, ...])
    return Row(**fields)


def _read_jsonl(data: bytes) -> list[dict[str, Any]]:
    return msgspec.json.Decoder(dict[str, Any]).decode_lines(data)


def _read_csv(data: bytes) -> list[dict[str, Any]]:
    parse: dict[str, Callable[[str], Any]] = {
        "width": int, "height": int, "bytes": int, "score": float, "top_k": msgspec.json.decode,
        "scores": msgspec.json.decode, "embedding": msgspec.json.decode,
    }  # fmt: skip
    nullable = {"error", "sha256", "label"} | parse.keys()
    rows = csv_rows(data)
    header = next(rows)
    return [
        {
            name: None if value == "" and name in nullable else parse.get(name, str)(value)
            for name, value in fields.items()
        }
        for fields in (dict(zip(header, row, strict=True)) for row in rows)
    ]


def csv_rows(data: bytes) -> Iterator[list[str]]:
    """Return the rows of a part in CSV, its header first."""
    csv.field_size_limit(sys.maxsize)  # 128 KiB of itself, which the scores of some 6,000 labels fill
    return csv.reader(io.StringIO(data.decode(), newline=""))


def _read_parquet(data: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    # A process that ends while Arrow's threads start is aborted now and then, and so small a file is read faster alone.
    rows: list[dict[str, Any]] = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()
    return rows


_READERS: dict[Format, Callable[[bytes], list[dict[str, Any]]]] = {
    "parquet": _read_parquet,
    "csv": _read_csv,
    "jsonl": _read_jsonl,
}


def _encode_jsonl(rows: Sequence[Row], columns: tuple[str, ...]) -> bytes:
    encoder = msgspec.json.Encoder(enc_hook=_floats)
    return encoder.encode_lines({name: getattr(row, name) for name in columns} for row in rows)


def _encode_csv(rows: Sequence[Row], columns: tuple[str, ...]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # RFC 4180: with its line ends, CR and LF in a file's name are quoted
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_csv_field(getattr(row, name)) for name in columns)
    return text.getvalue().encode()


def _csv_field(value: object) -> object:
    if isinstance(value, (tuple, np.ndarray)):
        return msgspec.json.encode(value, enc_hook=_floats).decode()
    return value


def _floats(numbers: NDArray[np.float32]) -> list[float]:
    # A float32 is a double too, and a double's shortest text reads back as the same double.
    floats: list[float] = numbers.tolist()
    return floats


def _encode_parquet(rows: Sequence[Row], columns: tuple[str, ...]) -> bytes:
    return encode_table({name: [getattr(row, name) for row in rows] for name in columns}, version=SCHEMA_VERSION)


_ENCODERS: dict[Format, Callable[[Sequence[Row], tuple[str, ...]], bytes]] = {
    "parquet": _encode_parquet,
    "csv": _encode_csv,
    "jsonl": _encode_jsonl,
}
