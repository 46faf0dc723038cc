"""What a run did: a commit for each chunk, and `run.json`, the one output file that holds times, rates and ids."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from batch.run.fingerprint import Fingerprint  # noqa: TC001 # msgspec reads the annotations
from classifier.types import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A chunk that is done: a line of `commits.jsonl`. If a chunk has several lines, the last one holds.

    Attributes:
        part: the file's name.
        bytes: the file's size.
        sha256: of the file, in hexadecimal.
        errors: number of failed rows, by reason.
        in_class_folders: number of rows whose image is in a folder named like one of the model's labels.
        correct: number of those whose top label is that folder's name.
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
        """Number of failed rows."""
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How often the top label is the name of the image's folder.

    Attributes:
        images: number of classified images; failed ones don't count.
    """

    correct: int
    images: int

    @property
    def acc1(self) -> float:
        """The share that is correct, 0…1."""
        return self.correct / self.images


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        ended: None while it works, and forever if it was killed.
        images: number of images that it classified and committed.
        batch_size: images per execution of the engine.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    images: int = 0
    elapsed_s: float = 0.0
    images_per_s: float = 0.0
    batch_size: int
    decode_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The contents of `run.json`.

    Attributes:
        state: `running` also after the process was killed.
        errors: number of failed images, by reason.
        accuracy: None unless every image is in a folder named like one of the model's labels.
        run: what the output's bytes depend on.
        attempts: the processes that worked on the run, oldest first.
    """

    state: Literal["running", "interrupted", "done"]
    images: int
    ok: int
    failed: int
    errors: dict[str, int]
    accuracy: Accuracy | None
    run: Fingerprint
    attempts: tuple[Attempt, ...]

    @classmethod
    def of(cls, run: Fingerprint, commits: Iterable[Commit], attempts: tuple[Attempt, ...]) -> RunRecord:
        """Return the record of a run with these commits."""
        errors: Counter[str] = Counter()
        images = in_class_folders = correct = 0
        for commit in commits:
            errors.update(commit.errors)
            images += commit.rows
            in_class_folders += commit.in_class_folders
            correct += commit.correct
        failed = errors.total()
        ok = images - failed
        state: Literal["running", "interrupted", "done"] = "running"
        if attempts and attempts[-1].ended is not None:
            state = "done" if images == run.images else "interrupted"
        return cls(
            state=state,
            images=images,
            ok=ok,
            failed=failed,
            errors=dict(sorted(errors.items())),
            accuracy=Accuracy(correct=correct, images=ok) if ok and in_class_folders == images else None,
            run=run,
            attempts=attempts,
        )


def read_attempts(path: Path) -> tuple[Attempt, ...]:
    """Return the attempts in the record at `path`; none if there is no readable record."""
    try:
        return from_json(path.read_bytes(), RunRecord).attempts
    except (OSError, ValueError):
        # The record is for people; no run depends on it.
        return ()
