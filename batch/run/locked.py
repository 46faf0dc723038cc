"""An output that this process has locked, and writes.

Every file is written through the folders that were there when the output was locked, and only while the lock is still
the output's. So if somebody removes the output and begins another run there, nothing of this run gets into it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, BinaryIO, Self

import msgspec

from batch.run.folder import BEFORE_A_RUN, RunFolder, reading, writing
from batch.run.record import Commit
from classifier.errors import OutputError
from classifier.types import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from batch.rows.part import Part
    from batch.run.fingerprint import Fingerprint

# One fixed name: the next write removes what a killed run left, and parts/ holds nothing but parts.
_ASIDE = "aside"
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}  # the last if another machine removed it from a share
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class LockedFolder(RunFolder):
    """The output folder of one run, locked by this process. `lock.open_run_folder` opens it.

    Every method that writes raises an OutputError if the disk fails, or if the output has been removed or replaced.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        super().__init__(path)
        self._lock = lock
        self._folders: dict[Path, int] = {}

    def __enter__(self) -> Self:
        with writing(self.path):
            for folder in (self.path, self.state):
                self._folders[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *exception: object) -> None:
        while self._folders:
            os.close(self._folders.popitem()[1])

    @property
    def is_in_place(self) -> bool:
        """Whether the output is still the one that this process locked."""
        held = ((self._lock.fileno(), self.lock), (self._folders[self.path], self.path))
        try:
            return all(os.path.samestat(os.fstat(each), path.stat()) for each, path in held)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise

    def require(self) -> None:
        """Check that the output is still the one that this process locked.

        Raises:
            OutputError: it was removed, moved, or replaced by another.
        """
        with writing(self.path):
            is_in_place = self.is_in_place
        if not is_in_place:
            raise OutputError(
                f"the output '{self.path}' was removed or replaced while this process wrote into it; nothing more is "
                "written there; give the same command again, or name another --output"
            )

    def begin(self, fingerprint: Fingerprint) -> None:
        """Begin a run whose plan is written. From here on it can be resumed."""
        with writing(self.path):
            self.require()
            with suppress(FileExistsError):
                os.mkdir(self.parts.name, dir_fd=self._folders[self.path])  # Path has no dir_fd
            with self._open(self.commits, _NEW):
                pass
            os.fsync(self._folders[self.path])
        self._replace(self._fingerprint, to_json(fingerprint))

    def committed(self, parts: Collection[str]) -> dict[int, Commit]:
        """Return what `RunFolder.committed` does, and cut off a half-written commit."""
        with reading(self.commits):
            lines = self.commits.read_bytes()
        whole = lines.rfind(b"\n") + 1
        if whole < len(lines):
            with writing(self.commits):
                self.require()
                with self._open(self.commits, os.O_WRONLY) as file:
                    os.truncate(file.fileno(), whole)
        return super().committed(parts)

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
        self._replace(self.parts / name, part.data)
        self.enter(commit)
        return commit

    def adopt(self, part: Path, commit: Commit) -> None:
        """Take over the part of another run, as a hard link if the file system has them, and enter its commit."""

        def link() -> None:
            try:
                os.link(part, _ASIDE, dst_dir_fd=self._folders[self.state])
            except OSError:
                # This file system has no hard links, or not between these folders.
                with part.open("rb") as source, self._open(self.state / _ASIDE, _NEW) as copy:
                    shutil.copyfileobj(source, copy)
                    _sync(copy)

        self._put(self.parts / commit.part, link)
        self.enter(commit)

    def enter(self, commit: Commit) -> None:
        """Append the commit of a part that is in its place."""
        with writing(self.commits):
            self.require()
            with self._open(self.commits, os.O_WRONLY | os.O_APPEND) as file:
                file.write(msgspec.json.encode(commit) + b"\n")
                _sync(file)

    def write_record(self, record: bytes) -> None:
        """Write `run.json`."""
        self._replace(self.record, record)

    def reopen(self) -> None:
        """Remove the mark of success: there is work to do again."""
        with writing(self._success):
            self.require()
            with suppress(FileNotFoundError):
                os.unlink(self._success.name, dir_fd=self._folders[self.path])

    def succeed(self) -> None:
        """Mark the run as done."""
        self._replace(self._success, b"")

    def remove(self, *, folder_too: bool) -> None:
        """Remove the files of a run that did not begin, by their names, and the folders that this leaves empty."""
        with writing(self.path):
            if not self.is_in_place:
                return
            for name in BEFORE_A_RUN:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._folders[self.state])
        for folder in (self.state, self.parts, *((self.path,) if folder_too else ())):
            with suppress(OSError):  # it was never made, or holds other files
                folder.rmdir()

    def _replace(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all."""

        def write() -> None:
            with self._open(self.state / _ASIDE, _NEW) as file:
                file.write(data)
                _sync(file)

        self._put(path, write)

    def _put(self, path: Path, make_aside: Callable[[], None]) -> None:
        """Bring the file that `make_aside` makes to its place."""
        state = self._folders[self.state]
        with writing(path):
            self.require()
            target = self._folder(path.parent)
            # Removed, not overwritten: a merge that was killed can leave a link of a shard's part.
            with suppress(FileNotFoundError):
                os.unlink(_ASIDE, dir_fd=state)
            try:
                make_aside()
                self.require()  # again, because a disk can take long to sync
                os.replace(_ASIDE, path.name, src_dir_fd=state, dst_dir_fd=target)
            finally:
                # After a failure it is half-written. If both are links of one file, renaming leaves it as well.
                with suppress(OSError):
                    os.unlink(_ASIDE, dir_fd=state)
            os.fsync(target)

    def _folder(self, path: Path) -> int:
        if path not in self._folders:
            self._folders[path] = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folders[self.path])
        return self._folders[path]

    @contextmanager
    def _open(self, path: Path, flags: int) -> Iterator[BinaryIO]:
        """Yield a file of the output, open for writing."""
        with os.fdopen(os.open(path.name, flags, 0o666, dir_fd=self._folder(path.parent)), "wb") as file:
            yield file


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
