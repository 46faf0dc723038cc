"""The record of a run: `run.json`, the one file of the output that holds times, rates and ids."""

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

    from batch.run.folder import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How often the top label is the name of the folder that the image lies in.

    Attributes:
        images: how many were classified; those that failed don't count.
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
        ended: None while it works, and for ever where it was killed.
        images: how many it classified, and committed.
        batch_size: how many images went into the engine at once.
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
    """What a run did: the contents of `run.json`.

    Attributes:
        state: `running` is also what a killed run says.
        errors: how many images failed, by reason.
        accuracy: None unless each image lies in a folder that has the name of one of the model's labels.
        run: what the bytes of the output depend on.
        attempts: the processes that worked on it, the last one last.
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
    """Return the attempts that the record at `path` knows of; none where there is no record that can be read."""
    try:
        return from_json(path.read_bytes(), RunRecord).attempts
    except (OSError, ValueError):
        # It is for people to read, and no run depends on it.
        return ()
