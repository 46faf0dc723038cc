"""The local runner: chunks are read, decoded and inferred on this machine, one after the other."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from batch.contained import IMAGE_TIMEOUT_S, Decoder
from batch.inference import batch_size_of, score_images
from batch.output import Columns, Row, make_row
from batch.part import part_of
from batch.reading import decode_threads, load_images

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from batch.part import Part
    from batch.plan import ImageFile
    from batch.progress import Advance
    from batch.reading import LoadedImage
    from classifier.model import Model
    from classifier.types import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A chunk that is to be made.

    Attributes:
        kept: rows of `files` that stay as they are; None where the row is to be made.
    """

    chunk: int
    files: Sequence[ImageFile]
    kept: Sequence[Row | None]

    @property
    def todo(self) -> list[ImageFile]:
        """The images whose rows are to be made."""
        return [file for file, row in zip(self.files, self.kept, strict=True) if row is None]


class Runner(Protocol):
    """What makes the parts of chunks: this machine, or a cluster."""

    @property
    def model(self) -> str:
        """The model, `digits@sha256:…`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes, in the order of the scores."""

    @property
    def engine(self) -> EngineInfo:
        """What runs it."""

    @property
    def has_embeddings(self) -> bool:
        """Whether the model gives embeddings."""

    @property
    def batch_size(self) -> int:
        """How many images go into the engine at once."""

    @property
    def threads(self) -> int:
        """How many threads read and decode."""

    def parts(
        self, works: Iterable[Work], columns: Columns, *, timeout_s: float, suspects: int, advance: Advance
    ) -> Generator[tuple[Work, Part]]:
        """Yield each chunk with its part, in whatever order they are done.

        Args:
            works: taken as they are needed.
            columns: how rows are written.
            timeout_s: of an image that is decoded contained.
            suspects: images, the first ones, to be decoded contained.
            advance: told how many images are done.
        """


def _say_nothing(images: int) -> None:
    """Leave the progress to others."""


class LocalRunner:
    """Runs a model that is open in this process."""

    def __init__(self, model: Model, *, batch_size: int | None = None, threads: int | None = None) -> None:
        self._model = model
        self.batch_size = batch_size_of(model, batch_size)
        self.threads = decode_threads(threads)

    @property
    def model(self) -> str:
        """The model, `digits@sha256:…`."""
        return self._model.identity

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes, in the order of the scores."""
        return self._model.config.labels

    @property
    def engine(self) -> EngineInfo:
        """What runs it."""
        return self._model.engine.info

    @property
    def has_embeddings(self) -> bool:
        """Whether the model gives embeddings."""
        return bool(self._model.config.embedding_size)

    def parts(
        self,
        works: Iterable[Work],
        columns: Columns,
        *,
        timeout_s: float = IMAGE_TIMEOUT_S,
        suspects: int = 0,
        advance: Advance = _say_nothing,
    ) -> Generator[tuple[Work, Part]]:
        """Yield each chunk with its part, in their order."""
        waiting: deque[Work] = deque()

        def files() -> Iterator[ImageFile]:
            for work in works:
                waiting.append(work)
                yield from work.todo

        preprocessing = self._model.config.preprocessing
        ahead = 2 * self.batch_size + self.threads
        with (
            Decoder(preprocessing, timeout_s=timeout_s, suspects=suspects and suspects + ahead) as decode,
            # One stream over all chunks, so that decoding goes on while a chunk is committed.
            closing(load_images(files(), decode, threads=self.threads, ahead=ahead)) as loaded,
        ):
            while (first := next(loaded, None)) is not None:
                work = waiting.popleft()
                images = islice(chain((first,), loaded), len(work.todo))
                yield work, self._make(work, images, columns, advance)

    def _make(self, work: Work, images: Iterable[LoadedImage], columns: Columns, advance: Advance) -> Part:
        made = []
        # A batch never reaches into the next chunk: so the batches of a resumed run are those of an undisturbed one.
        scored = score_images(images, self._model, batch_size=self.batch_size, embeddings=columns.embeddings)
        for batch in scored:
            made += [make_row(image, self._model, top_k=columns.top_k) for image in batch]
            advance(len(batch))
        new = iter(made)
        rows = [next(new) if row is None else row for row in work.kept]
        return part_of(rows, work.files, columns, labels=self._model.config.labels)
