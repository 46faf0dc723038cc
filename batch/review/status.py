"""The status of a run, from the files that it leaves. Asking does not disturb the run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from batch.review.results import FolderResults, Results, State, open_results
from batch.run.fingerprint import Fingerprint  # noqa: TC001 # msgspec reads the annotations, here and below
from batch.run.folder import RunFolder
from batch.run.lock import Holder, is_held, last_holder
from batch.run.record import Accuracy, RunRecord

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStatus:
    """The status of one folder of a run: the output itself, or a shard's.

    Attributes:
        images: number of images that have their row.
        total: number of images of the run.
        errors: number of failed images, by reason.
        attempts: number of processes that have worked on the run.
        images_per_s: rate of the last attempt; None if it has not committed anything.
        left_s: seconds until the run is done at that rate; None if it does not run, or the rate is unknown.
        last_commit: time of the last commit.
        holder: the process that works on the run, or did so last.
    """

    name: str
    state: State | Literal["not begun"]
    images: int
    total: int
    errors: dict[str, int]
    attempts: int
    images_per_s: float | None = None
    left_s: float | None = None
    last_commit: datetime | None = None
    holder: Holder | None = None

    @property
    def failed(self) -> int:
        """Number of failed images."""
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status of a run. Fields that `FolderStatus` has too mean the same, for all shards together.

    Attributes:
        shards: the status of each shard; empty if the run was not divided, or was merged.
        run: the fingerprint; None while the images are being listed.
    """

    output: str
    state: State
    images: int
    total: int
    ok: int
    failed: int
    errors: dict[str, int]
    accuracy: Accuracy | None
    attempts: int
    images_per_s: float | None
    left_s: float | None
    last_commit: datetime | None
    holder: Holder | None
    shards: tuple[FolderStatus, ...]
    run: Fingerprint | None


def status_of(output: Path) -> Status:
    """Return the status of the run in `output`.

    Raises:
        OutputError: it can't be read, or holds no run.
    """
    return _planning(output) or summarise(open_results(output))


def summarise(results: Results) -> Status:
    """Return the status of the run that has these results."""
    folders = [_status_of(each) for each in results.folders]
    record, run = results.record(), results.run
    rates = [each.images_per_s for each in folders if each.images_per_s and each.state == results.state]
    left = [each.left_s for each in folders]
    commits = [each.last_commit for each in folders if each.last_commit]
    missing = [
        FolderStatus(
            name=shard.folder,
            state="not begun",
            images=0,
            total=run.of_shard(shard).images,
            errors={},
            attempts=0,
        )
        for shard in results.missing
    ]
    is_on_its_way = all(each.state == "done" or each.left_s is not None for each in folders) and not missing
    return Status(
        output=str(results.output),
        state=results.state,
        images=record.images,
        total=run.images,
        ok=record.ok,
        failed=record.failed,
        errors=record.errors,
        accuracy=record.accuracy,
        attempts=len(record.attempts),
        images_per_s=sum(rates) if rates else None,
        left_s=max((each for each in left if each is not None), default=None) if is_on_its_way else None,
        last_commit=max(commits, default=None),
        holder=None if results.are_shards else folders[0].holder,
        shards=tuple(sorted([*folders, *missing], key=lambda each: each.name)) if results.are_shards else (),
        run=run,
    )


def _planning(output: Path) -> Status | None:
    """Return the status of a run that is listing its images; None if none is."""
    folder = RunFolder(output)
    if folder.began or not is_held(folder.lock):
        return None
    return Status(
        output=str(output), state="planning", images=0, total=0, ok=0, failed=0, errors={}, accuracy=None, attempts=0,
        images_per_s=None, left_s=None, last_commit=None, holder=last_holder(folder.lock), shards=(), run=None,
    )  # fmt: skip


def _status_of(results: FolderResults) -> FolderStatus:
    attempts = results.record.attempts if results.record else ()
    record = RunRecord.of(results.run, results.commits.values(), attempts)
    last_commit = _last_commit(results) if results.commits else None
    rate = left_s = None
    if results.state in {"running", "killed"} and results.record and last_commit:
        # run.json is written when an attempt begins and ends; in between, the commits tell.
        worked_s = (last_commit - attempts[-1].started).total_seconds()
        new = record.images - results.record.images
        rate = new / worked_s if new > 0 and worked_s > 0 else None
        left_s = (results.run.images - record.images) / rate if rate and results.is_running else None
    elif attempts and attempts[-1].ended:
        rate = attempts[-1].images_per_s
    return FolderStatus(
        name=results.folder.path.name,
        state=results.state,
        images=record.images,
        total=results.run.images,
        errors=record.errors,
        attempts=len(attempts),
        images_per_s=rate,
        left_s=left_s,
        last_commit=last_commit,
        holder=results.holder,
    )


def _last_commit(results: FolderResults) -> datetime:
    return datetime.fromtimestamp(results.folder.commits.stat().st_mtime, UTC)


def is_elsewhere(holder: Holder | None) -> bool:
    """Return whether a process is on another machine, whose lock may not be visible from here."""
    return holder is not None and holder.host != platform.node()
