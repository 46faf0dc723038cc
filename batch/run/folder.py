"""Commit: the output folder, in which a chunk's part is there whole or not at all, whenever the run is killed.

    OUT/
      parts/part-00000.parquet …   one file per chunk: nothing else, so that any reader takes the folder
      run.json                     what ran, when, how fast
      _SUCCESS                     written last
      .batch/                      what resuming needs
        lock                         held by the process that runs, and says which one that is
        plan                         the list of images
        fingerprint.json             written when the plan is whole: from here on there is a run
        commits.jsonl                one line per committed part

A part is written aside, synced and renamed, and then entered into `commits.jsonl`: that line is the commit. A part
without its line is made again, with the same bytes. A line that was half-written is cut off.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from batch.inputs.named import printable
from batch.inputs.urls import is_url
from batch.run.fingerprint import Fingerprint
from batch.run.holder import take
from classifier.errors import OutputError
from classifier.files import sync_folder
from classifier.types import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from batch.inputs.named import Input
    from batch.rows.part import Part


STATE = ".batch"
REPORT = "report.html"
"""What `tandem batch report` writes beside a run, or beside its shards."""

_BEFORE_A_RUN = frozenset({"lock", "plan", "aside", "commits.jsonl"})
"""What a run that was killed before it began may leave in there, and all that is ever removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A chunk that is done: a line of `commits.jsonl`. Of several lines of a chunk, the last one holds.

    Attributes:
        part: the file's name.
        bytes: its size.
        sha256: of its contents, in hexadecimal.
        errors: how many rows failed, by reason.
        in_class_folders: how many rows lie in a folder that has the name of one of the model's labels.
        correct: how many of those have that label as their top one.
    """

    chunk: int
    part: str
    rows: int
    bytes: int
    sha256: str
    errors: dict[str, int]
    in_class_folders: int
    correct: int

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return sum(self.errors.values())


class RunFolder:
    """The output folder of one run, locked by this process. Made by `open_run_folder`."""

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
        """Return the fingerprint of the run that began here, None where none did.

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

    def begin(self, fingerprint: Fingerprint) -> None:
        """Begin a run whose plan is written. From here on it can be resumed."""
        with writing(self.path):
            self.parts.mkdir(exist_ok=True)
            self.commits.write_bytes(b"")
            sync_folder(self.path)
            self._replace(self._fingerprint, to_json(fingerprint))

    def committed(self, parts: Collection[str]) -> dict[int, Commit]:
        """Return the chunks that are done. A part that has gone or changed since is not: its chunk is made again.

        Args:
            parts: the names of all parts that this run will have.

        Raises:
            OutputError: the parts can't be read, or there is a file among them that is none of this run.
        """
        with reading(self.commits):
            lines = self.commits.read_bytes()
        whole = lines.rfind(b"\n") + 1
        if whole < len(lines):
            with writing(self.commits):
                os.truncate(self.commits, whole)
        with reading(self.parts):
            foreign = [part.name for part in self.parts.iterdir() if part.name not in parts]
        if foreign:
            raise OutputError(
                f"'{self.parts / min(foreign)}' is no part of this run; move it away, or name another --output"
            )
        last = self._last_commits(lines[:whole])
        return {chunk: commit for chunk, commit in last.items() if self._is_whole(commit)}

    def entered(self) -> dict[int, Commit]:
        """Return the chunks that were committed, whatever has become of their parts; nothing is written.

        Raises:
            OutputError: the commits can't be read.
        """
        with reading(self.commits):
            lines = self.commits.read_bytes()
        return self._last_commits(lines[: lines.rfind(b"\n") + 1])

    def _last_commits(self, lines: bytes) -> dict[int, Commit]:
        try:
            commits = msgspec.json.Decoder(Commit).decode_lines(lines)
        except msgspec.MsgspecError as error:
            raise OutputError(
                f"'{self.commits}' is damaged ({error}); name another --output to run from the start"
            ) from error
        return {commit.chunk: commit for commit in commits}

    def _is_whole(self, commit: Commit) -> bool:
        """Return whether the part is what was committed, to the byte."""
        path = self.parts / commit.part
        with reading(path):
            try:
                with path.open("rb") as part:
                    return hashlib.file_digest(part, "sha256").hexdigest() == commit.sha256
            except FileNotFoundError:
                return False

    def commit(self, chunk: int, name: str, part: Part) -> Commit:
        """Write the part of a chunk, whole or not at all, and return its commit."""
        commit = Commit(
            chunk=chunk,
            part=name,
            rows=part.rows,
            bytes=len(part.data),
            sha256=hashlib.sha256(part.data).hexdigest(),
            errors=part.errors,
            in_class_folders=part.in_class_folders,
            correct=part.correct,
        )
        with writing(self.parts / name):
            self._replace(self.parts / name, part.data)
            self.enter(commit)
        return commit

    def read_part(self, commit: Commit) -> bytes:
        """Return a part, if it is what was committed.

        Raises:
            OutputError: it is not.
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

    def enter(self, commit: Commit) -> None:
        """Enter a commit whose part stands in its place."""
        with self.commits.open("ab") as file:
            file.write(msgspec.json.encode(commit) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write_record(self, record: bytes) -> None:
        """Write `run.json`."""
        with writing(self.record):
            self._replace(self.record, record)

    def reopen(self) -> None:
        """Take back that the run is done: a part has gone since."""
        with writing(self._success):
            self._success.unlink(missing_ok=True)

    def succeed(self) -> None:
        """Say that the run is done."""
        with writing(self._success):
            self._replace(self._success, b"")

    def remove(self, *, folder_too: bool) -> None:
        """Remove what stands here of a run that did not begin: files of ours by their names, and empty folders."""
        for name in _BEFORE_A_RUN:
            (self.state / name).unlink(missing_ok=True)
        for folder in (self.state, self.parts, *((self.path,) if folder_too else ())):
            with suppress(OSError):  # it holds something of somebody else's, or was never made
                folder.rmdir()

    def _replace(self, path: Path, data: bytes) -> None:
        # One name for whatever is written aside: what a killed run left there is overwritten by the next.
        aside = self.state / "aside"
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)  # where the disk is full, leave the room to run.json
            raise
        sync_folder(path.parent)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the file system while `path` is read into one sentence with its remedy."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{path}' can't be read ({error.strerror}); put that right, and give the same command again"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system while `path` is written into one sentence with its remedy."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{path}' can't be written ({error.strerror}); put that right, and the same command resumes the run"
        ) from error


def check_output(path: Path, inputs: Sequence[Input] = (), *, shards: Collection[str] = ()) -> None:
    """Check, without writing, that a run of these inputs can begin or be resumed in the folder `path`.

    Args:
        path: the output.
        inputs: what it may not lie within.
        shards: names that may stand in it beside a run's own.

    Raises:
        OutputError: it is not a folder, lies within an input, or holds something that no run wrote.
    """
    real = Path(os.path.realpath(path))  # Path.resolve fails on a loop of links
    for input in inputs:
        if input.kind == "folder" and not is_url(input.location) and real.is_relative_to(input.location):
            raise OutputError(
                f"the output '{path}' lies within the input '{printable(input.given)}'; name an --output outside of it"
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
    # A run that was killed before it began left nothing of use. A new volume holds lost+found.
    leftovers = {STATE} if state <= _BEFORE_A_RUN else set()
    if foreign := names - leftovers - {"lost+found", REPORT, *shards} - (set() if parts else {"parts"}):
        raise OutputError(
            f"the output '{path}' holds '{min(foreign)}' and no run that could be resumed; "
            "name a new or an empty folder"
        )


def begun_batch_size(path: Path) -> int | None:
    """Return the size that every execution of the run in the folder `path` has; None where any serves, or none began.

    Raises:
        OutputError: its fingerprint can't be read.
    """
    begun = RunFolder(path).fingerprint()
    return None if begun is None else begun.engine.batch_size


def _names(folder: Path) -> set[str]:
    """Return what is in a folder; nothing where there is none."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


@contextmanager
def open_run_folder(path: Path, *, shards: Collection[str] = ()) -> Iterator[RunFolder]:
    """Yield the output folder, made if need be and locked. Where no run begins in it, it is left as it was.

    Args:
        path: the output.
        shards: names that may stand in it beside a run's own.

    Raises:
        OutputError: it can't be written, or another process runs in it.
    """
    check_output(path, shards=shards)
    folder = RunFolder(path)
    is_new = not path.exists()
    with writing(path):
        folder.state.mkdir(parents=True, exist_ok=True)
        if is_new:
            sync_folder(path.absolute().parent)
        lock = folder.lock.open("ab")
    with lock:
        if not take(lock):
            raise OutputError(
                f"another process is running a batch into '{path}'; wait until it ends, or name another --output"
            )
        if not _is_at(lock, folder.lock):
            # A run that did not begin has removed its lock since it was opened here: this one keeps nobody out.
            raise OutputError(f"another process has just given up '{path}'; give the same command again")
        try:
            yield folder
        finally:
            if not folder.began:
                folder.remove(folder_too=is_new)


def _is_at(file: IO[Any], path: Path) -> bool:
    """Return whether `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
