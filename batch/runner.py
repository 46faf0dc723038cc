"""The run on one machine: plan → read and decode → infer → commit, chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from batch.commit import Commit, RunFolder, open_run_folder, part_name, writing
from batch.fingerprint import Fingerprint
from batch.inference import ScoredImage, batch_size_of, score_images
from batch.interrupts import Interrupted, Interrupts
from batch.output import Format, encode_rows, make_row
from batch.plan import Input, digest_of, planned_images, planned_inputs, write_plan
from batch.progress import show_progress
from batch.reading import decode_threads, load_images
from batch.record import Attempt, RunRecord, read_attempts
from classifier.errors import ImageError, OutputError
from classifier.types import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batch.progress import Advance
    from batch.reading import LoadedImage
    from classifier.model import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What is to be classified, and how it is to be written.

    Attributes:
        chunk_size: images of one part file; what a killed run may have to do again.
        batch_size: images that go into the engine at once; None for the engine's own.
        threads: that read and decode; None for one for each CPU.
    """

    inputs: tuple[Input, ...]
    output: Path
    format: Format = "parquet"
    top_k: int = 5
    all_scores: bool = False
    chunk_size: int = 1000
    batch_size: int | None = None
    threads: int | None = None


def run_batch(job: BatchJob, model: Model, interrupts: Interrupts) -> RunRecord:
    """Return the record of the run once each image has its row, whichever attempt wrote it.

    Where the output holds the beginning of the same run, it is resumed; where it holds all of it, nothing is done.

    Raises:
        DataError: an input can't be listed.
        OutputError: the output can't be written, is in use, or holds another run.
        Interrupted: by a signal; what is committed stays.
    """
    with open_run_folder(job.output) as folder:
        begun = folder.fingerprint()
        run = _begin(job, model, folder) if begun is None else _resume(job, model, folder, begun)
        chunks = run.plan.chunks
        commits = folder.committed({part_name(chunk, chunks, job.format) for chunk in range(chunks)})
        attempts = read_attempts(folder.record)
        if folder.succeeded and len(commits) == chunks and attempts:
            log.info("'%s' is done already", job.output)
            return RunRecord.of(run, commits.values(), attempts)
        folder.reopen()
        if commits:
            log.info("resuming: %s of %s chunks are committed", f"{len(commits):,}", f"{chunks:,}")
        return _Attempt(job, model, folder, run, commits).classify(attempts, interrupts)


def _begin(job: BatchJob, model: Model, folder: RunFolder) -> Fingerprint:
    """Return the fingerprint of a run that begins here: the plan is made."""
    with writing(folder.plan):
        plan = write_plan(folder.plan, job.inputs, chunk_size=job.chunk_size)
    log.info("planned %s images in %s chunks", f"{plan.images:,}", f"{plan.chunks:,}")
    run = Fingerprint.of(plan, model, format=job.format, top_k=job.top_k, all_scores=job.all_scores)
    folder.begin(run)
    return run


def _resume(job: BatchJob, model: Model, folder: RunFolder, begun: Fingerprint) -> Fingerprint:
    """Return the fingerprint of the run that was begun here, if it is the one that was asked for.

    The plan that was made stays: files that came later are not part of this run.
    """
    with writing(folder.plan):
        digest = digest_of(folder.plan)
    plan = replace(begun.plan, inputs=planned_inputs(job.inputs), chunk_size=job.chunk_size, digest=digest)
    now = Fingerprint.of(plan, model, format=job.format, top_k=job.top_k, all_scores=job.all_scores)
    if differences := begun.differences(now):
        raise OutputError(
            f"the output '{folder.path}' holds a run that can't be resumed like this: {'; '.join(differences)}; "
            "run it as it was begun, or name another --output"
        )
    return begun


class _Attempt:
    """One process's work on a run."""

    def __init__(
        self, job: BatchJob, model: Model, folder: RunFolder, run: Fingerprint, commits: dict[int, Commit]
    ) -> None:
        self.job = job
        self.model = model
        self.folder = folder
        self.run = run
        self.commits = commits
        self.batch_size = batch_size_of(model, job.batch_size)
        self.threads = decode_threads(job.threads)
        self.labels = frozenset(model.config.labels)

    def classify(self, before: Sequence[Attempt], interrupts: Interrupts) -> RunRecord:
        """Return the record once all chunks are committed."""
        attempt = Attempt(batch_size=self.batch_size, decode_threads=self.threads)
        done, started = self._images(), time.monotonic()
        self._record(*before, attempt)
        try:
            self._commit_chunks(done, interrupts)
        except Interrupted:
            # In the last chunk, which was finished: so is the run.
            if len(self.commits) < self.run.plan.chunks:
                raise
        finally:
            images, elapsed_s = self._images() - done, time.monotonic() - started
            rate = images / elapsed_s
            ended = replace(attempt, ended=datetime.now(UTC), images=images, elapsed_s=elapsed_s, images_per_s=rate)
            record = self._record(*before, ended)
        self.folder.succeed()
        return record

    def _images(self) -> int:
        return sum(commit.rows for commit in self.commits.values())

    def _record(self, *attempts: Attempt) -> RunRecord:
        record = RunRecord.of(self.run, self.commits.values(), attempts)
        self.folder.write_record(to_json(record))
        return record

    def _commit_chunks(self, done: int, interrupts: Interrupts) -> None:
        plan = self.run.plan
        chunks = [chunk for chunk in range(plan.chunks) if chunk not in self.commits]
        files = planned_images(self.folder.plan, self.job.inputs, chunk_size=plan.chunk_size, chunks=frozenset(chunks))
        # One stream over all chunks, so that decoding goes on while a chunk is committed.
        stream = load_images(files, self.model.decode, threads=self.threads, ahead=2 * self.batch_size + self.threads)
        with show_progress(plan.images, done=done) as advance, closing(stream) as loaded:
            for chunk in chunks:
                with interrupts.held():
                    scored = self._score(islice(loaded, plan.rows(chunk)), advance)
                    self.commits[chunk] = self._commit(chunk, scored)

    def _score(self, loaded: Iterable[LoadedImage], advance: Advance) -> Iterator[ScoredImage]:
        # A batch never reaches into the next chunk: so the batches of a resumed run are those of an undisturbed one.
        for batch in score_images(loaded, self.model, batch_size=self.batch_size):
            yield from batch
            advance(len(batch))

    def _commit(self, chunk: int, scored: Iterable[ScoredImage]) -> Commit:
        rows = []
        errors: Counter[str] = Counter()
        in_class_folders = correct = 0
        for image in scored:
            loaded = image.loaded
            row = make_row(image, self.model, top_k=self.job.top_k)
            rows.append(row)
            if isinstance(loaded.image, ImageError):
                errors[loaded.image.reason] += 1
            folder = loaded.file.label(self.labels)
            in_class_folders += folder is not None
            correct += folder == row.label
        return self.folder.commit(
            chunk,
            part_name(chunk, self.run.plan.chunks, self.job.format),
            encode_rows(rows, self.job.format, all_scores=self.job.all_scores),
            rows=len(rows),
            errors=dict(sorted(errors.items())),
            in_class_folders=in_class_folders,
            correct=correct,
        )
