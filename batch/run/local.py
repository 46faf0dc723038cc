"""The local runner: this machine reads, decodes and infers the chunks, one after the other."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol, Self

from batch.pipeline.ahead import in_background
from batch.pipeline.contained import IMAGE_TIMEOUT_S, Decoder
from batch.pipeline.inference import batch_size_of, batched, score_batches
from batch.pipeline.loading import GROUP, decode_threads, load_images
from batch.pipeline.workers import Loader
from batch.rows.columns import Row, make_rows
from batch.rows.part import part_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from batch.inputs.plan import ImageFile
    from batch.pipeline.loading import LoadedImage
    from batch.rows.formats import Columns
    from batch.rows.part import Part
    from classifier.model import Model
    from classifier.progress import Advance
    from classifier.types import EngineInfo

ROWS_AHEAD = 512
"""Rows that can wait while a part is written and synced, which takes some 10 ms; at least one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A chunk to make.

    Attributes:
        kept: for each file, the row that stays as it is; None if the row has to be made.
    """

    chunk: int
    files: Sequence[ImageFile]
    kept: Sequence[Row | None]

    @property
    def todo(self) -> list[ImageFile]:
        """The images whose rows have to be made."""
        return [file for file, row in zip(self.files, self.kept, strict=True) if row is None]

    @property
    def missing(self) -> int:
        """Number of rows to make."""
        return self.kept.count(None)


class Runner(Protocol):
    """Makes the parts of chunks, on this machine or on a cluster."""

    @property
    def model(self) -> str:
        """The model, `digits@sha256:…`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's labels, in the order of the scores."""

    @property
    def engine(self) -> EngineInfo:
        """The engine that runs the model."""

    @property
    def has_embeddings(self) -> bool:
        """Whether the model gives embeddings."""

    @property
    def batch_size(self) -> int:
        """Images per execution of the engine."""

    @property
    def threads(self) -> int:
        """Number of threads that read and decode."""

    def parts(
        self, works: Iterable[Work], columns: Columns, *, timeout_s: float, suspects: int, advance: Advance
    ) -> Generator[tuple[Work, Part]]:
        """Yield each chunk with its part, in the order in which they are done.

        Args:
            works: the chunks, consumed as they are needed.
            columns: how rows are written.
            timeout_s: CPU time for an image that is decoded contained.
            suspects: number of images, from the first on, to decode contained.
            advance: called with the number of images that are newly done.
        """


def _say_nothing(images: int) -> None:
    """Ignore progress."""


class LocalRunner:
    """Runs a model that is open in this process. Leaving the `with` block ends the processes that load images.

    Args:
        model: what classifies.
        batch_size: images per execution; None for the engine's own choice.
        threads: that read and decode; None for one per CPU.
        processes: that load images; None for one per thread.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int | None = None,
        threads: int | None = None,
        processes: int | None = None,
    ) -> None:
        self._model = model
        self.batch_size = batch_size_of(model, batch_size)
        self.threads = decode_threads(threads)
        # They serve all calls of `parts`.
        self._load = Loader(model.config.preprocessing, processes=self.threads if processes is None else processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._load.close()

    @property
    def model(self) -> str:
        """The model, `digits@sha256:…`."""
        return self._model.identity

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's labels, in the order of the scores."""
        return self._model.config.labels

    @property
    def engine(self) -> EngineInfo:
        """The engine that runs the model."""
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
        """Yield each chunk with its part, in the order of `works`."""
        preprocessing = self._model.config.preprocessing
        ahead = 2 * self.batch_size
        batches_ahead = max(1, ROWS_AHEAD // self.batch_size)
        # Images that can be decoded before the first chunk is committed: with the threads, in the engine, in rows.
        in_hand = 2 * GROUP * self.threads + 3 * self.batch_size
        suspects = suspects and suspects + ahead + batches_ahead * self.batch_size + in_hand
        to_load: deque[Work] = deque()
        to_write: deque[Work] = deque()

        def files() -> Iterator[ImageFile]:
            for work in works:
                to_load.append(work)
                to_write.append(work)
                yield from work.todo

        # Three threads beside the loading ones: one runs the engine, one makes batches and rows, and the caller's makes
        # parts and commits them. So neither loading nor the engine waits at the end of a batch or a chunk.
        with Decoder(preprocessing, timeout_s=timeout_s, suspects=suspects) as decode:
            load = partial(self._load, decode=decode)
            with (
                closing(load_images(files(), load, threads=self.threads, ahead=ahead)) as loaded,
                closing(
                    in_background(self._rows(loaded, to_load, columns), ahead=batches_ahead, stop=decode.stop)
                ) as rows,
            ):
                made: list[Row] = []
                for batch in rows:
                    made += batch
                    advance(len(batch))
                    if len(made) == to_write[0].missing:
                        work = to_write.popleft()
                        yield work, self._part(work, made, columns)
                        made = []

    def _rows(self, loaded: Iterator[LoadedImage], works: deque[Work], columns: Columns) -> Generator[list[Row]]:
        batches = self._batches(loaded, works)
        with closing(score_batches(batches, self._model, embeddings=columns.embeddings)) as scored:
            for batch in scored:
                yield make_rows(batch, self._model, top_k=columns.top_k)

    def _batches(self, loaded: Iterator[LoadedImage], works: deque[Work]) -> Iterator[list[LoadedImage]]:
        """Yield the images in batches that end with their chunk, so that a resumed run has the same batches."""
        for first in loaded:
            yield from batched(chain((first,), islice(loaded, works.popleft().missing - 1)), self.batch_size)

    def _part(self, work: Work, made: Iterable[Row], columns: Columns) -> Part:
        new = iter(made)
        rows = [next(new) if row is None else row for row in work.kept]
        return part_of(rows, work.files, columns, labels=self._model.config.labels)
