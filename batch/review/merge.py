"""Merge: the shards of a run become the same bytes as a run of one process, once they are proved complete."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from batch.inputs.plan import digest_of
from batch.inputs.shards import Shard
from batch.inputs.sources import stamps_of
from batch.inputs.stamps import as_path
from batch.inputs.stores.urls import is_url
from batch.review.results import find_shards, require_one_count
from batch.run.folder import reading, writing
from batch.run.lock import open_run_folder, unchanging
from batch.run.record import RunRecord, read_attempts
from classifier.errors import OutputError
from classifier.hardware import allow_open_files
from classifier.types import to_json

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from batch.run.fingerprint import Fingerprint
    from batch.run.folder import RunFolder
    from batch.run.locked import LockedFolder
    from batch.run.record import Attempt, Commit

_PLANNED = ("plan", "sources.json")
"""The list of images, and what it was made of."""

_OTHER_FILES = 256
"""Files that may be open beside the locks."""


def merge_shards(output: Path) -> RunRecord:
    """Join the parts of all shards into `output`/parts, and return the record of the whole run.

    Before anything is written, the shards are proved complete: every shard is there and done, all have the same plan,
    byte for byte, and every chunk has its part with the committed checksum. Parts become hard links if the file system
    has them. The shards stay as they are, and no run can begin in them meanwhile.

    Raises:
        OutputError: a shard is missing, is not done, or is of another run; or the output can't be written.
    """
    shards = _find_shards(output)
    allow_open_files(len(shards) + _OTHER_FILES)  # each lock is one
    with ExitStack() as locks:
        for shard in shards:
            if shard.began:
                locks.enter_context(unchanging(shard))
        run, commits, attempts = _prove(shards)
        folder = locks.enter_context(open_run_folder(output, shards=[shard.path.name for shard in shards]))
        folder.reopen()
        joined = _join(folder, shards, run, commits)
        record = RunRecord.of(run, joined.values(), attempts)
        folder.write_record(to_json(record))
        folder.succeed()
    return record


def _find_shards(output: Path) -> list[RunFolder]:
    try:
        found = find_shards(output)
    except OSError as error:
        raise OutputError(
            f"the output '{output}' can't be read ({error.strerror}); name the folder that holds the shards"
        ) from error
    if not found:
        raise OutputError(f"'{output}' holds no shards; name the --output of 'tandem batch --shard'")
    count = require_one_count(output, found)
    if missing := [number for number in range(1, count + 1) if Shard(number=number, count=count) not in found]:
        listed = ", ".join(f"{number}/{count}" for number in missing[:10])
        raise OutputError(
            f"'{output}' lacks {len(missing):,} of the {count:,} shards ({listed}{', …' * (len(missing) > 10)}); "
            "run them with --shard"
        )
    return [found[Shard(number=number, count=count)] for number in range(1, count + 1)]


def _prove(shards: list[RunFolder]) -> tuple[Fingerprint, dict[int, Commit], tuple[Attempt, ...]]:
    """Return the fingerprint of the whole run, with all commits and attempts, after checking each shard."""
    first: Fingerprint | None = None
    versions: list[object] | None = None
    commits: dict[int, Commit] = {}
    attempts: list[Attempt] = []
    for number, folder in enumerate(shards, 1):
        run = folder.fingerprint()
        if run is None or not folder.succeeded:
            raise OutputError(
                f"the shard '{folder.path}' is not done; run it again with --shard {number}/{len(shards)}"
            )
        found = _versions(folder, run)
        if first is None:
            first, versions = run, found
        if None not in (found, versions) and found != versions:
            raise OutputError(
                f"the shards '{folder.path}' and '{shards[0].path}' read other versions of a tar file, table or list, "
                "which was written anew between them; run both again from the start"
            )
        expected = replace(first, shard=Shard(number=number, count=len(shards)))
        if differences := expected.differences(run):
            raise OutputError(
                f"the shards '{folder.path}' and '{shards[0].path}' are of different runs: {'; '.join(differences)}; "
                "run one of them again from the start, on the same images"
            )
        with reading(folder.plan):
            digest = digest_of(folder.plan)
        of_shard = folder.committed({run.part(chunk) for chunk in run.chunks})
        lost = [run.part(chunk) for chunk in run.chunks if chunk not in of_shard]
        if digest != run.plan.digest or lost:
            what = f"'{lost[0]}'" if lost else "its plan"
            raise OutputError(
                f"the shard '{folder.path}' has lost {what}; run it again with --shard {number}/{len(shards)}"
            )
        commits |= of_shard
        attempts += read_attempts(folder.record)
    assert first is not None
    assert sorted(commits) == list(range(first.plan.chunks))
    return replace(first, shard=None), dict(sorted(commits.items())), tuple(attempts)


def _versions(folder: RunFolder, run: Fingerprint) -> list[object] | None:
    """Return how to tell versions of what a shard read. Copies of a local file share its size, not its time."""
    stamps = stamps_of(folder.plan)
    if stamps is None:
        return None
    return [
        stamp and (stamp.size, stamp.written if is_url(as_path(input.path)) else None)
        for input, stamp in zip(run.plan.inputs, stamps, strict=True)
    ]


def _join(
    folder: LockedFolder, shards: list[RunFolder], run: Fingerprint, commits: dict[int, Commit]
) -> dict[int, Commit]:
    """Bring parts, plan and commits together, and return all commits."""
    begun = folder.fingerprint()
    if begun is None:
        folder.require()
        with writing(folder.path):
            for name in _PLANNED:
                with suppress(FileNotFoundError):
                    shutil.copyfile(shards[0].state / name, folder.state / name)
        folder.begin(run)
    elif differences := begun.differences(run):
        raise OutputError(
            f"the run in '{folder.path}' is not the run of its shards ({'; '.join(differences)}); move one of them away"
        )
    have = folder.committed({run.part(chunk) for chunk in run.chunks})
    seen = {(commit.chunk, commit.sha256) for commit in folder.history()}
    for shard in shards:
        fingerprint = shard.fingerprint()
        assert fingerprint is not None
        for chunk in fingerprint.chunks:
            commit = commits[chunk]
            if _is_newer(commit, have.get(chunk), seen):
                folder.adopt(shard.parts / commit.part, commit)
                have[chunk] = commit
    return have


def _is_newer(commit: Commit, have: Commit | None, seen: Container[tuple[int, str]]) -> bool:
    """Return whether a shard's part takes the place of the output's own.

    The output has seen a part that it once had: if it has another one now, that is of a later `--retry-failed`.
    """
    if have is None:
        return True
    return (commit.chunk, commit.sha256) not in seen and commit.failed <= have.failed
