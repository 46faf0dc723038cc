"""A bulk run: plan → read and decode → infer → commit, chunk by chunk, on whichever runner."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from batch.inputs.plan import digest_of, planned_images, planned_inputs, require_images, write_plan
from batch.inputs.selection import SUFFIXES_ALONE, Selection
from batch.inputs.sources import inputs_as_planned
from batch.inputs.stores.urls import is_url
from batch.pipeline.contained import IMAGE_TIMEOUT_S
from batch.rows.formats import Columns, read_rows
from batch.run.fingerprint import Fingerprint
from batch.run.folder import check_output, reading, writing
from batch.run.local import Work
from batch.run.lock import open_run_folder
from batch.run.metrics import MetricsFile, check_metrics_file
from batch.run.record import Attempt, Commit, RunRecord, read_attempts
from batch.run.stopping import FailureLimits, Interrupted, Interrupts
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
    from batch.rows.columns import Row
    from batch.rows.part import Part
    from batch.run.local import Runner
    from batch.run.locked import LockedFolder
    from classifier.progress import Advance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What to classify, and how to write it.

    Attributes:
        output: the run's folder; for a shard, the shard's own.
        selection: which entries of folders and tar files are images to classify.
        shard: the run's share of the chunks; None for all.
        chunk_size: images in one part file, the most that a killed run has to repeat.
        image_timeout_s: CPU time for an image that is decoded contained.
        limits: number of failed images that stops the run.
        retry_failed: whether to make an earlier attempt's `error` rows again.
        metrics_file: file for Prometheus' text collector; None for none.
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
    """Check, without writing, that the run can begin.

    Raises:
        DataError: there is no image.
        OutputError: the output can't be used.
    """
    check_output(job.output, job.inputs)
    check_metrics_file(job.metrics_file)
    # Listing a bucket can take hours: only the plan does it.
    if not any(is_url(input.location) for input in job.inputs):
        require_images(job.inputs, job.selection)


def run_batch(job: BatchJob, runner: Runner, interrupts: Interrupts) -> RunRecord:
    """Return the record of the run once every image has its row.

    If the output holds part of the same run, the run is resumed; if it holds all of it, nothing is done.

    Raises:
        NoEmbeddings: embeddings were asked for, and the model was exported without them.
        DataError: an input can't be listed, disappeared during the run, or was written anew since it was planned.
        OutputError: the output can't be written, is in use, or holds another run.
        TooManyFailures: more images failed than the limits allow; committed chunks stay.
        Interrupted: a signal came; committed chunks stay.
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
            log.info("'%s' is already done", job.output)
            return RunRecord.of(run, commits.values(), attempts)
        job = replace(job, inputs=inputs_as_planned(folder.plan, job.inputs, resumed=begun is not None))
        folder.reopen()
        if commits:
            log.info("resuming: %s of %s committed", f"{len(commits):,}", counted(len(run.chunks), "chunk"))
        return _Attempt(job, runner, folder, run, commits).classify(attempts, interrupts)


def _begin(job: BatchJob, runner: Runner, folder: LockedFolder) -> Fingerprint:
    """Make the plan, and return the fingerprint of the run that begins here."""
    with writing(folder.plan):
        plan = write_plan(folder.plan, job.inputs, chunk_size=job.chunk_size, selection=job.selection)
    if not plan.images:
        require_images(job.inputs, job.selection)
    run = _fingerprint(job, runner, plan)
    log.info("%s; classifying %s in %s", plan, counted(run.images, "image"), counted(len(run.chunks), "chunk"))
    folder.begin(run)
    return run


def _resume(job: BatchJob, runner: Runner, folder: LockedFolder, begun: Fingerprint) -> Fingerprint:
    """Return the fingerprint of the run that began here, after checking that `job` asks for the same run.

    The plan stays as it was made: files that were added later are not part of the run.
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
            f"the output '{folder.path}' holds a run that differs from this command: {'; '.join(differences)}; "
            "repeat the command that began it, or name another --output"
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
        self, job: BatchJob, runner: Runner, folder: LockedFolder, run: Fingerprint, commits: dict[int, Commit]
    ) -> None:
        self.job = job
        self.runner = runner
        self.folder = folder
        self.run = run
        self.commits = commits
        self.classified = 0
        self.chunks_left = 0
        # Only of rows that stay: failed rows that are about to be made again don't count against the limits.
        self.kept = self.kept_failed = 0
        self.metrics = MetricsFile(job.metrics_file, run)

    def classify(self, before: Sequence[Attempt], interrupts: Interrupts) -> RunRecord:
        """Return the record once all chunks are committed."""
        attempt = Attempt(batch_size=self.runner.batch_size, decode_threads=self.runner.threads)
        started = time.monotonic()
        self._record(*before, attempt)
        # An image that crashes its process may be why the attempt before was killed.
        was_killed = bool(before) and before[-1].ended is None
        try:
            self._commit_chunks(interrupts, suspects=self.run.plan.chunk_size if was_killed else 0)
        except Interrupted:
            # A signal during the last chunk: that was finished, and so is the run.
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
        """Make and commit these chunks: the failed rows of committed ones, all other chunks from scratch."""
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
                rows = read_rows(self.folder.read_part(commit), self.job.columns)
                kept = [None if row.status == "error" else row for row in rows]
            yield Work(chunk=chunk, files=of_chunk, kept=kept)
