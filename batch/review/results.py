"""The results in an output, of a run that is done or under way. Reading them writes nothing and takes no lock."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from batch.inputs.plan import digest_of, planned_images
from batch.inputs.shards import Shard
from batch.rows.columns import SCHEMA_VERSION
from batch.run.folder import RunFolder
from batch.run.lock import Holder, is_held, last_holder
from batch.run.record import RunRecord
from classifier.errors import OutputError
from classifier.types import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile
    from batch.run.fingerprint import Fingerprint
    from batch.run.record import Commit

State = Literal["planning", "running", "interrupted", "killed", "done"]

_SHARD_FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderResults:
    """One folder of a run: the output itself, or a shard's.

    Attributes:
        commits: by chunk, whether or not their parts are still intact.
        record: `run.json`; None if it can't be read.
        holder: the process that works on the run, or did so last; None if unknown.
        is_running: whether that process runs now, as far as this machine can see.
    """

    folder: RunFolder
    run: Fingerprint
    commits: dict[int, Commit]
    record: RunRecord | None
    holder: Holder | None
    is_running: bool

    @property
    def state(self) -> State:
        """The state of the run: `killed` if its last process neither ended properly nor runs."""
        if self.folder.succeeded:
            return "done"
        if self.is_running:
            return "running"
        return "interrupted" if self.record is not None and self.record.attempts[-1].ended else "killed"

    def plan_problem(self) -> str | None:
        """Return what is wrong with the plan, in a sentence; None if it is the plan that the run began with."""
        plan = self.folder.plan
        try:
            digest = digest_of(plan)
        except OSError as error:
            fact = f"can't be read ({error.strerror})"
        else:
            if digest == self.run.plan.digest:
                return None
            fact = "is not the list that the run began with"
        return f"the plan '{plan}' {fact}; restore it, or run into another --output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything in an output.

    Attributes:
        folders: the output itself, or its shards in order.
        missing: shards in which no run has begun.
        run: the fingerprint of the run; for shards, of all of them together.
    """

    output: Path
    folders: tuple[FolderResults, ...]
    missing: tuple[Shard, ...]
    run: Fingerprint

    @property
    def state(self) -> State:
        """The state of all folders together: `running` if one is, `done` if all are."""
        states = {each.state for each in self.folders} | ({"interrupted"} if self.missing else set())
        return next(state for state in ("running", "killed", "interrupted", "done") if state in states)

    @property
    def are_shards(self) -> bool:
        """Whether the run is divided into shards."""
        return bool(self.missing) or self.folders[0].folder.path != self.output

    def record(self) -> RunRecord:
        """Return the record of all folders, counted from their commits."""
        commits = (commit for each in self.folders for commit in each.commits.values())
        attempts = (attempt for each in self.folders if each.record for attempt in each.record.attempts)
        return RunRecord.of(self.run, commits, tuple(attempts))

    def parts(self) -> Iterator[tuple[FolderResults, Commit]]:
        """Yield the committed parts with their folders, in the order of the plan."""
        placed = {chunk: each for each in self.folders for chunk in each.commits}
        for chunk in sorted(placed):
            yield placed[chunk], placed[chunk].commits[chunk]

    def images(self, plan: Path, inputs: Sequence[Input]) -> Iterator[ImageFile]:
        """Yield the images of all committed parts, in the order of the list at `plan`."""
        chunks = frozenset(chunk for each in self.folders for chunk in each.commits)
        return planned_images(plan, inputs, chunk_size=self.run.plan.chunk_size, chunks=chunks)


def open_results(output: Path) -> Results:
    """Return the results in `output`: of its run if it holds one, merged or not, else of its shards.

    Raises:
        OutputError: it can't be read, or no run of this schema version has begun in it.
    """
    try:
        shards = find_shards(output)
    except OSError as error:
        raise OutputError(f"the output '{output}' can't be read ({error.strerror}); name a run's output") from error
    own = _open_folder(RunFolder(output))
    # A merge that was interrupted has not written its record.
    if own is not None and (own.record is not None or not shards):
        return Results(output=output, folders=(own,), missing=(), run=own.run)
    opened = {shard: _open_folder(folder) for shard, folder in shards.items()}
    folders = tuple(each for each in opened.values() if each is not None)
    if not folders:
        raise OutputError(f"'{output}' holds no run; name the --output of a run that has begun")
    first = folders[0]
    count = require_one_count(output, shards)
    for each in folders:
        if differences := replace(first.run, shard=each.run.shard).differences(each.run):
            raise OutputError(
                f"the shards '{each.folder.path}' and '{first.folder.path}' are of different runs: "
                f"{'; '.join(differences)}; name one of the two"
            )
    begun = {each.run.shard for each in folders}
    missing = [shard for number in range(1, count + 1) if (shard := Shard(number=number, count=count)) not in begun]
    return Results(output=output, folders=folders, missing=tuple(missing), run=replace(first.run, shard=None))


def find_shards(output: Path) -> dict[Shard, RunFolder]:
    """Return the shards' folders in `output`, in order.

    Raises:
        OSError: it can't be read.
    """
    found = {
        Shard(number=int(match[1]), count=int(match[2])): RunFolder(path)
        for path in output.iterdir()
        if (match := _SHARD_FOLDER.fullmatch(path.name)) and 1 <= int(match[1]) <= int(match[2])
    }
    return dict(sorted(found.items(), key=lambda item: (item[0].count, item[0].number)))


def require_one_count(output: Path, shards: Iterable[Shard]) -> int:
    """Return the number of shards of the run in `output`.

    Raises:
        OutputError: the shards are of different numbers.
    """
    counts = {shard.count for shard in shards}
    if len(counts) > 1:
        raise OutputError(
            f"'{output}' holds shards of {min(counts)} and of {max(counts)}; move the shards of one run away"
        )
    return counts.pop()


def _open_folder(folder: RunFolder) -> FolderResults | None:
    """Return the results in a folder; None if no run has begun there."""
    run = folder.fingerprint()
    if run is None:
        return None
    if run.schema_version != SCHEMA_VERSION:
        raise OutputError(
            f"the run in '{folder.path}' wrote rows of schema version {run.schema_version}, and this Tandem reads "
            f"version {SCHEMA_VERSION}; use the Tandem that wrote them"
        )
    # Looked at before and after the rest: a process that begins or ends in between counts as running.
    is_running = is_held(folder.lock)
    try:
        record = from_json(folder.record.read_bytes(), RunRecord)
    except (OSError, ValueError):
        record = None
    commits = folder.entered()
    if foreign := [
        each for each in commits.values() if each.chunk not in run.chunks or each.part != run.part(each.chunk)
    ]:
        raise OutputError(
            f"the commits in '{folder.state}' name '{foreign[0].part}' as chunk {foreign[0].chunk}, which this run "
            "does not have; restore them, or run into another --output"
        )
    return FolderResults(
        folder=folder,
        run=run,
        commits=commits,
        record=record,
        holder=last_holder(folder.lock),
        is_running=is_running or is_held(folder.lock),
    )
