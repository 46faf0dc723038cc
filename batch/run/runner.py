"""The run: plan → read and decode → infer → commit, chunk by chunk, by whichever runner."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from batch.inputs.listing import SUFFIXES_ALONE, Selection
from batch.inputs.plan import digest_of, planned_images, planned_inputs, require_images, write_plan
from batch.inputs.urls import is_url
from batch.pipeline.contained import IMAGE_TIMEOUT_S
from batch.rows.formats import Columns, read_rows
from batch.run.fingerprint import Fingerprint
from batch.run.folder import Commit, RunFolder, check_output, open_run_folder, reading, writing
from batch.run.interrupts import Interrupted, Interrupts
from batch.run.limits import FailureLimits
from batch.run.local import Work
from batch.run.metrics import MetricsFile, check_metrics_file
from batch.run.record import Attempt, RunRecord, read_attempts
from classifier.errors import NoEmbeddings, OutputError
from classifier.progress import show_progress
from classifier.types import to_json
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batch.inputs.named import Input
    from batch.inputs.plan import Plan
    from batch.inputs.shards import Shard
    from batch.rows.formats import Row
    from batch.rows.part import Part
    from batch.run.local import Runner
    from classifier.progress import Advance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What is to be classified, and how it is to be written.

    Attributes:
        selection: what is taken of folders and tar files.
        shard: which chunks are this run's; None for all. `output` is then the shard's own folder.
        chunk_size: images of one part file; what a killed run may have to do again.
        image_timeout_s: CPU time that an image may take which is decoded contained.
        limits: when so many images failed that the run had better stop.
        retry_failed: whether the rows of an earlier attempt that say `error` are made again.
        metrics_file: what Prometheus' text collector reads; None for none.
    """

    inputs: tuple[Input, ...]
    output: Path
    selection: Selection = SUFFIXES_ALONE
    shard: Shard | None = None
    columns: Columns = field(default_factory=Columns)
    chunk_size: int = 1000
    image_timeout_s: float = IMAGE_TIMEOUT_S
    limits: FailureLimits = field(default_factory=FailureLimits)
    retry_failed: bool = False
    metrics_file: Path | None = None


def check_job(job: BatchJob) -> None:
    """Check, without writing, what would stop a run before its first image.

    Raises:
        DataError: there is no image.
        OutputError: the output can't be used.
    """
    check_output(job.output, job.inputs)
    check_metrics_file(job.metrics_file)
    # A bucket is listed once, by the plan: that can take hours.
    if not any(is_url(input.location) for input in job.inputs):
        require_images(job.inputs, job.selection)


def run_batch(job: BatchJob, runner: Runner, interrupts: Interrupts) -> RunRecord:
    """Return the record of the run once each image has its row, whichever attempt wrote it.

    Where the output holds the beginning of the same run, it is resumed; where it holds all of it, nothing is done.

    Raises:
        NoEmbeddings: they were asked for, and the model was exported without.
        DataError: an input can't be listed, or has gone.
        OutputError: the output can't be written, is in use, or holds another run.
        TooManyFailures: more images failed than may; what is committed stays.
        Interrupted: by a signal; what is committed stays.
    """
    if job.columns.embeddings and not runner.has_embeddings:
        raise NoEmbeddings(
            f"{runner.model} gives no embeddings; export it with 'tandem export --embeddings', "
            "or leave --embeddings out"
        )
    with open_run_folder(job.output) as folder:
        begun = folder.fingerprint()
        run = _begin(job, runner, folder) if begun is None else _resume(job, runner, folder, begun)
        commits = folder.committed({run.part(chunk) for chunk in run.chunks})
        attempts = read_attempts(folder.record)
        failed = job.retry_failed and any(commit.errors for commit in commits.values())
        if folder.succeeded and len(commits) == len(run.chunks) and attempts and not failed:
            log.info("'%s' is done already", job.output)
            return RunRecord.of(run, commits.values(), attempts)
        folder.reopen()
        if commits:
            log.info("resuming: %s of %s committed", f"{len(commits):,}", counted(len(run.chunks), "chunk"))
        return _Attempt(job, runner, folder, run, commits).classify(attempts, interrupts)


def _begin(job: BatchJob, runner: Runner, folder: RunFolder) -> Fingerprint:
    """Return the fingerprint of a run that begins here: the plan is made."""
    with writing(folder.plan):
        plan = write_plan(folder.plan, job.inputs, chunk_size=job.chunk_size, selection=job.selection)
    if not plan.images:
        require_images(job.inputs, job.selection)
    run = _fingerprint(job, runner, plan)
    log.info("planned %s in %s", counted(run.images, "image"), counted(len(run.chunks), "chunk"))
    folder.begin(run)
    return run


def _resume(job: BatchJob, runner: Runner, folder: RunFolder, begun: Fingerprint) -> Fingerprint:
    """Return the fingerprint of the run that was begun here, if it is the one that was asked for.

    The plan that was made stays: files that came later are not part of this run.
    """
    with reading(folder.plan):
        digest = digest_of(folder.plan)
    plan = replace(
        begun.plan,
        inputs=planned_inputs(job.inputs),
        selection=job.selection,
        chunk_size=job.chunk_size,
        digest=digest,
    )
    if differences := begun.differences(_fingerprint(job, runner, plan)):
        raise OutputError(
            f"the output '{folder.path}' holds a run that can't be resumed like this: {'; '.join(differences)}; "
            "run it as it was begun, or name another --output"
        )
    return begun


def _fingerprint(job: BatchJob, runner: Runner, plan: Plan) -> Fingerprint:
    return Fingerprint.of(
        plan,
        job.columns,
        model=runner.model,
        labels=runner.labels,
        engine=runner.engine,
        shard=job.shard,
        image_timeout_s=job.image_timeout_s,
    )


class _Attempt:
    """One process's work on a run."""

    def __init__(
        self, job: BatchJob, runner: Runner, folder: RunFolder, run: Fingerprint, commits: dict[int, Commit]
    ) -> None:
        self.job = job
        self.runner = runner
        self.folder = folder
        self.run = run
        self.commits = commits
        self.classified = 0
        self.chunks_left = 0
        # Of the rows that stay as they are: what failed and is about to be made again says nothing of the run any more.
        self.kept = self.kept_failed = 0
        self.metrics = MetricsFile(job.metrics_file, run)

    def classify(self, before: Sequence[Attempt], interrupts: Interrupts) -> RunRecord:
        """Return the record once all chunks are committed."""
        attempt = Attempt(batch_size=self.runner.batch_size, decode_threads=self.runner.threads)
        started = time.monotonic()
        self._record(*before, attempt)
        # What an attempt was killed over may have been an image that takes its process with it.
        was_killed = bool(before) and before[-1].ended is None
        try:
            self._commit_chunks(interrupts, suspects=self.run.plan.chunk_size if was_killed else 0)
        except Interrupted:
            # In the last chunk, which was finished: so is the run.
            if self.chunks_left:
                raise
        finally:
            elapsed_s = time.monotonic() - started
            ended = replace(
                attempt,
                ended=datetime.now(UTC),
                images=self.classified,
                elapsed_s=elapsed_s,
                images_per_s=self.classified / elapsed_s,
            )
            record = self._record(*before, ended)
            self.metrics.write(record)
        self.folder.succeed()
        return record

    def _record(self, *attempts: Attempt) -> RunRecord:
        record = RunRecord.of(self.run, self.commits.values(), attempts)
        self.folder.write_record(to_json(record))
        return record

    def _commit_chunks(self, interrupts: Interrupts, *, suspects: int) -> None:
        retried = [chunk for chunk, commit in sorted(self.commits.items()) if commit.errors and self.job.retry_failed]
        missing = [chunk for chunk in self.run.chunks if chunk not in self.commits]
        self.chunks_left = len(retried) + len(missing)
        to_retry = frozenset(retried)
        done = 0
        for chunk, commit in self.commits.items():
            if chunk not in to_retry:
                self._count(commit)
            done += commit.rows - commit.failed * (chunk in to_retry)
        self.job.limits.check(self.kept, self.kept_failed)
        with show_progress(self.run.images, done=done) as advance:
            self._make(retried, interrupts, advance, suspects=suspects)
            self._make(missing, interrupts, advance, suspects=suspects)

    def _make(self, chunks: Sequence[int], interrupts: Interrupts, advance: Advance, *, suspects: int) -> None:
        """Make and commit these chunks: what failed of those that are committed, the others whole."""
        parts = self.runner.parts(
            self._works(chunks),
            self.job.columns,
            timeout_s=self.job.image_timeout_s,
            suspects=suspects,
            advance=advance,
        )
        with closing(parts):
            for _ in chunks:
                with interrupts.held():
                    self._commit(*next(parts))
                self.metrics.update(self.commits.values(), self.classified)
                self.job.limits.check(self.kept, self.kept_failed)

    def _count(self, commit: Commit) -> None:
        self.kept += commit.rows
        self.kept_failed += commit.failed

    def _commit(self, work: Work, part: Part) -> None:
        commit = self.folder.commit(work.chunk, self.run.part(work.chunk), part)
        self.commits[work.chunk] = commit
        self._count(commit)
        self.classified += len(work.todo)
        self.chunks_left -= 1

    def _works(self, chunks: Sequence[int]) -> Iterator[Work]:
        plan = self.run.plan
        files = planned_images(self.folder.plan, self.job.inputs, chunk_size=plan.chunk_size, chunks=frozenset(chunks))
        for chunk in chunks:
            of_chunk = tuple(islice(files, plan.rows(chunk)))
            kept: list[Row | None] = [None] * len(of_chunk)
            if commit := self.commits.get(chunk):
                rows = read_rows(self.folder.read_part(commit), self.job.columns.format)
                kept = [None if row.status == "error" else row for row in rows]
            yield Work(chunk=chunk, files=of_chunk, kept=kept)
