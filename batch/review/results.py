"""Results: what a run left in its output, or has there so far. Looked at without writing, and without its lock."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from batch.inputs.plan import digest_of
from batch.inputs.shards import Shard
from batch.rows.formats import SCHEMA_VERSION
from batch.run.folder import RunFolder
from batch.run.holder import Holder, is_held, last_holder
from batch.run.record import RunRecord
from classifier.errors import OutputError
from classifier.types import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batch.run.fingerprint import Fingerprint
    from batch.run.folder import Commit

State = Literal["planning", "running", "interrupted", "killed", "done"]

_SHARD_FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderResults:
    """One folder of a run: that of its output, or of a shard.

    Attributes:
        commits: the parts that were committed, by chunk, whatever has become of them since.
        record: its `run.json`; None where that can't be read.
        holder: the process that works on it, or worked on it last; None where that isn't known.
        is_running: whether it works on it now, as far as this machine sees.
    """

    folder: RunFolder
    run: Fingerprint
    commits: dict[int, Commit]
    record: RunRecord | None
    holder: Holder | None
    is_running: bool

    @property
    def state(self) -> State:
        """What became of it: `killed` where its last process neither ended nor runs."""
        if self.folder.succeeded:
            return "done"
        if self.is_running:
            return "running"
        return "interrupted" if self.record is not None and self.record.attempts[-1].ended else "killed"

    def plan_problem(self) -> str | None:
        """Return what is wrong with the plan, in a sentence; None where it is the one that the run began with."""
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
    """What stands in an output.

    Attributes:
        folders: the output itself, or its shards in their order.
        missing: shards in which no run has begun.
        run: what was run: of shards, all of it.
    """

    output: Path
    folders: tuple[FolderResults, ...]
    missing: tuple[Shard, ...]
    run: Fingerprint

    @property
    def state(self) -> State:
        """That of all folders together: `running` where one is, and `done` where all are."""
        states = {each.state for each in self.folders} | ({"interrupted"} if self.missing else set())
        return next(state for state in ("running", "killed", "interrupted", "done") if state in states)

    @property
    def are_shards(self) -> bool:
        """Whether there are several folders, or could be."""
        return bool(self.missing) or self.folders[0].folder.path != self.output

    def record(self) -> RunRecord:
        """Return the record of all folders, as their commits have it now."""
        commits = (commit for each in self.folders for commit in each.commits.values())
        attempts = (attempt for each in self.folders if each.record for attempt in each.record.attempts)
        return RunRecord.of(self.run, commits, tuple(attempts))

    def parts(self) -> Iterator[tuple[FolderResults, Commit]]:
        """Yield what is committed, in the order of the plan."""
        placed = {chunk: each for each in self.folders for chunk in each.commits}
        for chunk in sorted(placed):
            yield placed[chunk], placed[chunk].commits[chunk]


def open_results(output: Path) -> Results:
    """Return what stands in `output`.

    Where it holds a run, that is looked at, and what it was merged from is not; else its shards are.

    Raises:
        OutputError: it can't be read, or no run of this schema has begun in it.
    """
    try:
        shards = find_shards(output)
    except OSError as error:
        raise OutputError(f"the output '{output}' can't be read ({error.strerror}); name that of a run") from error
    own = _open_folder(RunFolder(output))
    # A merge that was cut short has written no record yet.
    if own is not None and (own.record is not None or not shards):
        return Results(output=output, folders=(own,), missing=(), run=own.run)
    opened = {shard: _open_folder(folder) for shard, folder in shards.items()}
    folders = tuple(each for each in opened.values() if each is not None)
    if not folders:
        raise OutputError(f"'{output}' holds no run; name the --output of one that has begun")
    first = folders[0]
    count = require_one_count(output, shards)
    for each in folders:
        if differences := replace(first.run, shard=each.run.shard).differences(each.run):
            raise OutputError(
                f"the shard '{each.folder.path}' is not of the same run as '{first.folder.path}': "
                f"{'; '.join(differences)}; name one of the two"
            )
    begun = {each.run.shard for each in folders}
    missing = [shard for number in range(1, count + 1) if (shard := Shard(number=number, count=count)) not in begun]
    return Results(output=output, folders=folders, missing=tuple(missing), run=replace(first.run, shard=None))


def find_shards(output: Path) -> dict[Shard, RunFolder]:
    """Return the folders of shards in `output`, in their order.

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
    """Return how many shards the run in `output` was divided into.

    Raises:
        OutputError: its shards say different things.
    """
    counts = {shard.count for shard in shards}
    if len(counts) > 1:
        raise OutputError(f"'{output}' holds shards of {min(counts)} and of {max(counts)}; move those of one run away")
    return counts.pop()


def _open_folder(folder: RunFolder) -> FolderResults | None:
    """Return what stands in a folder; None where no run has begun there."""
    run = folder.fingerprint()
    if run is None:
        return None
    if run.schema_version != SCHEMA_VERSION:
        raise OutputError(
            f"the run in '{folder.path}' wrote rows of schema version {run.schema_version}, and this Tandem reads "
            f"version {SCHEMA_VERSION}; use the Tandem that wrote them"
        )
    # Before the rest and behind it: one that begins or ends in between has run.
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
            f"the commits in '{folder.state}' name '{foreign[0].part}' as chunk {foreign[0].chunk}, which this run has "
            "not; restore them, or run into another --output"
        )
    return FolderResults(
        folder=folder,
        run=run,
        commits=commits,
        record=record,
        holder=last_holder(folder.lock),
        is_running=is_running or is_held(folder.lock),
    )
