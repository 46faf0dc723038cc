"""The local runner: chunks are read, decoded and inferred on this machine, one after the other."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol, Self

from batch.pipeline.contained import IMAGE_TIMEOUT_S, Decoder
from batch.pipeline.inference import batch_size_of, batched, score_batches
from batch.pipeline.loading import Loader
from batch.pipeline.reading import GROUP, decode_threads, in_background, load_images
from batch.rows.formats import Columns, Row, make_rows
from batch.rows.part import part_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from batch.inputs.plan import ImageFile
    from batch.pipeline.reading import LoadedImage
    from batch.rows.part import Part
    from classifier.model import Model
    from classifier.progress import Advance
    from classifier.types import EngineInfo

ROWS_AHEAD = 512
"""Rows that wait while a part is written and synced, which takes some hundredths of a second; at least a batch."""


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

    @property
    def missing(self) -> int:
        """How many rows are to be made."""
        return self.kept.count(None)


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
    """Runs a model that is open in this process. Its processes that load images end with the block, or with this one.

    Args:
        processes: that load images; one for each thread unless told.
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
        # Kept from one call of `parts` to the next.
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
        preprocessing = self._model.config.preprocessing
        ahead = 2 * self.batch_size
        batches_ahead = max(1, ROWS_AHEAD // self.batch_size)
        # All that may be decoded while a chunk is not yet committed: what the threads have, the engine, and the rows.
        in_hand = 2 * GROUP * self.threads + 3 * self.batch_size
        suspects = suspects and suspects + ahead + batches_ahead * self.batch_size + in_hand
        to_load: deque[Work] = deque()
        to_write: deque[Work] = deque()

        def files() -> Iterator[ImageFile]:
            for work in works:
                to_load.append(work)
                to_write.append(work)
                yield from work.todo

        # Three threads beside those that load: one runs the engine, one makes batches and rows, and the caller's makes
        # parts and commits them. So neither loading nor the engine waits for the end of a batch or a chunk.
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
        """Yield the images in batches, none of which reaches into the next chunk.

        So the batches of a resumed run are those of an undisturbed one.
        """
        for first in loaded:
            yield from batched(chain((first,), islice(loaded, works.popleft().missing - 1)), self.batch_size)

    def _part(self, work: Work, made: Iterable[Row], columns: Columns) -> Part:
        new = iter(made)
        rows = [next(new) if row is None else row for row in work.kept]
        return part_of(rows, work.files, columns, labels=self._model.config.labels)
