"""The output folder of a run: each chunk's part is there whole or not at all, whenever the run is killed.

    OUT/
      parts/part-00000.parquet …   one file for each chunk and nothing else, so that any reader can take the folder
      run.json                     what ran, when, how fast
      _SUCCESS                     written last
      .batch/                      what resuming needs
        lock                         held by the running process, and names it
        plan                         the list of images
        sources.json                 what it was made of: files and disks
        fingerprint.json             written when the plan is complete: from here on there is a run
        commits.jsonl                one line for each committed part

A part is written aside, synced and renamed, then entered into `commits.jsonl`. That line is the commit. A part without
its line is made again, with the same bytes. A half-written line is cut off.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batch.inputs.shards import Shard
from batch.inputs.stores.urls import is_url
from batch.run.fingerprint import Fingerprint
from batch.run.record import Commit
from classifier.errors import OutputError
from classifier.extras import IMAGE
from classifier.types import from_json
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from batch.inputs.named import Input


STATE = ".batch"
REPORT = "report.html"
"""The page that `tandem batch report` writes beside a run, or beside its shards."""

BEFORE_A_RUN = frozenset({"lock", "plan", "sources.json", "aside", "commits.jsonl"})
"""Files of STATE that a process killed before its run began can leave. Nothing else is ever removed."""


class RunFolder:
    """The output folder of one run, to be read. `lock.open_run_folder` opens it for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts = path / "parts"
        self.state = path / STATE
        self.lock = self.state / "lock"
        self.plan = self.state / "plan"
        self.record = path / "run.json"
        self.commits = self.state / "commits.jsonl"
        self._fingerprint = self.state / "fingerprint.json"
        self._success = path / "_SUCCESS"

    @property
    def began(self) -> bool:
        """Whether a run began here."""
        return self._fingerprint.exists()

    @property
    def succeeded(self) -> bool:
        """Whether the run is done."""
        return self._success.exists()

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint of the run that began here; None if none did.

        Raises:
            OutputError: it can't be read.
        """
        try:
            return from_json(self._fingerprint.read_bytes(), Fingerprint)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"'{self._fingerprint}' is not a fingerprint that this Tandem can read ({error}); "
                "name another --output, or resume with the Tandem that began the run"
            ) from error

    def committed(self, parts: Collection[str]) -> dict[int, Commit]:
        """Return the commits whose parts are intact, by chunk. The other chunks have to be made again.

        Args:
            parts: names of all parts that this run will have.

        Raises:
            OutputError: the parts can't be read, or a file among them is not of this run.
        """
        last = self.entered()
        with reading(self.parts):
            foreign = [part.name for part in self.parts.iterdir() if part.name not in parts]
        if foreign:
            raise OutputError(
                f"'{self.parts / min(foreign)}' is not a part of this run; move it away, or name another --output"
            )
        return {chunk: commit for chunk, commit in last.items() if self._is_intact(commit)}

    def entered(self) -> dict[int, Commit]:
        """Return the last commit of each chunk, without looking at the parts.

        Raises:
            OutputError: the commits can't be read.
        """
        return {commit.chunk: commit for commit in self.history()}

    def history(self) -> list[Commit]:
        """Return all commits, oldest first. A half-written line at the end is left out.

        Raises:
            OutputError: the commits can't be read.
        """
        with reading(self.commits):
            lines = self.commits.read_bytes()
        try:
            return msgspec.json.Decoder(Commit).decode_lines(lines[: lines.rfind(b"\n") + 1])
        except msgspec.MsgspecError as error:
            raise OutputError(
                f"'{self.commits}' is damaged ({error}); name another --output to run from the start"
            ) from error

    def _is_intact(self, commit: Commit) -> bool:
        path = self.parts / commit.part
        with reading(path):
            try:
                with path.open("rb") as part:
                    return hashlib.file_digest(part, "sha256").hexdigest() == commit.sha256
            except FileNotFoundError:
                return False

    def read_part(self, commit: Commit) -> bytes:
        """Return the bytes of a committed part.

        Raises:
            OutputError: it is missing, or is not what was committed.
        """
        path = self.parts / commit.part
        again = "the same command makes it again"
        with reading(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError as error:
                raise OutputError(f"the part '{path}' is missing; {again}") from error
        if hashlib.sha256(data).hexdigest() != commit.sha256:
            raise OutputError(f"the part '{path}' is not what the run wrote; remove it, and {again}")
        return data


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is read into an OutputError with a remedy."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{path}' can't be read ({error.strerror}); put that right, and give the same command again"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into an OutputError with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = f"{_remedy(path, error)}, and the same command resumes the run"
        raise OutputError(f"'{path}' can't be written ({error.strerror}); {remedy}") from error


def _remedy(path: Path, error: OSError) -> str:
    if os.environ.get(IMAGE) and (error.errno == errno.EROFS or not path.exists()):
        return "mount a writable folder there"
    if isinstance(error, PermissionError) and hasattr(os, "geteuid"):
        with suppress(OSError):
            existing = next(each for each in (path, *path.parents) if each.exists())
            owner, own = existing.stat().st_uid, os.geteuid()
            if owner != own:
                return f"'{existing}' belongs to user {owner}: give it to user {own}, or run as its owner"
    return "put that right"


def check_output(path: Path, inputs: Sequence[Input] = (), *, shards: Collection[str] = ()) -> None:
    """Check, without writing, that a run can begin or be resumed in the folder `path`.

    Args:
        path: the output.
        inputs: the output must not be inside one of these.
        shards: names that may be in the folder beside a run's own.

    Raises:
        OutputError: it is not a folder, is inside an input, or holds something that no run wrote.
    """
    real = Path(os.path.realpath(path))  # Path.resolve fails on a loop of links
    for input in inputs:
        if input.kind == "folder" and not is_url(input.location) and real.is_relative_to(input.location):
            raise OutputError(
                f"the output '{path}' is inside the input '{utf8_text(input.given)}'; name an --output outside of it"
            )
    try:
        names = {entry.name for entry in path.iterdir()}
        state, parts = (_names(path / folder) for folder in (STATE, "parts"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"the output '{path}' can't be used ({error.strerror}); name another --output") from error
    if "fingerprint.json" in state:
        return
    # A process killed before its run began left nothing of use. A new volume holds lost+found.
    leftovers = {STATE} if state <= BEFORE_A_RUN else set()
    if foreign := names - leftovers - {"lost+found", REPORT, *shards} - (set() if parts else {"parts"}):
        raise OutputError(
            f"the output '{path}' holds '{min(foreign)}' and no run to resume; name a new or an empty folder"
        )


def begun_batch_size(path: Path, shard: Shard | None = None) -> int | None:
    """Return the fixed batch size of the run in the folder `path`; None if any size serves, or no run began.

    A shard that did not begin takes the size of one that did: `merge` refuses shards of different sizes.

    Raises:
        OutputError: a fingerprint can't be read.
    """
    count = 0 if shard is None else shard.count
    shards = (path.with_name(Shard(number=number, count=count).folder) for number in range(1, count + 1))
    for folder in (path, *shards):
        if begun := RunFolder(folder).fingerprint():
            return begun.engine.batch_size
    return None


def _names(folder: Path) -> set[str]:
    """Return the names in a folder; none if there is no such folder."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
