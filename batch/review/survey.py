"""A survey of a run's rows, counted in one pass. Each list keeps no more images than a page can show."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from batch.inputs.plan import inputs_of
from batch.rows.formats import read_outcomes, read_rows
from classifier.errors import OutputError
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.inputs.plan import ImageFile
    from batch.review.results import FolderResults, Results
    from batch.rows.columns import Outcome, Score
    from batch.run.record import Commit
    from classifier.progress import Advance

SCORE_BINS = 20
SHOWN_IMAGES = 32
SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image that a page shows.

    Attributes:
        position: row number in the whole plan.
        truth: the label that is its folder's name; None if folders are not labels.
    """

    position: int
    file: ImageFile
    outcome: Outcome
    truth: str | None

    @property
    def sha256(self) -> str | None:
        """Of the file, as its row says."""
        return self.outcome.sha256


class Least:
    """The images with the smallest keys; among equal keys, those added first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, SeenImage]] = []

    def takes(self, key: float) -> bool:
        """Return whether an image with this key would be kept."""
        return len(self._heap) < self._count or -key > self._heap[0][0]

    def add(self, key: float, image: SeenImage) -> None:
        """Add an image whose key `takes` accepts."""
        item = (-key, -image.position, image)
        (heapq.heappush if len(self._heap) < self._count else heapq.heappushpop)(self._heap, item)

    def __iter__(self) -> Iterator[SeenImage]:
        """Yield the images, smallest key first."""
        return (image for _, _, image in sorted(self._heap, reverse=True))


@dataclass(slots=True, kw_only=True)
class Survey:
    """Counts of all rows.

    Attributes:
        has_truth: whether every image is in a folder named like a label.
        bytes: total size of all files that could be read.
        labels: number of images for each top label.
        right: histogram of top scores of images whose top label is their folder's name, or of all images if folders
            are not labels.
        wrong: histogram of the other top scores.
        pairs: number of images for each pair of folder and top label.
        errors: the first failed images, by reason.
        least_certain: the images with the lowest top scores.
        surest_mistakes: the wrong images with the highest top scores.
    """

    has_truth: bool
    bytes: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    right: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    wrong: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: dict[str, list[SeenImage]] = field(default_factory=lambda: defaultdict(list))
    least_certain: Least = field(default_factory=lambda: Least(SHOWN_IMAGES))
    surest_mistakes: Least = field(default_factory=lambda: Least(SHOWN_IMAGES))

    def add(self, position: int, file: ImageFile, outcome: Outcome, truth: str | None) -> None:
        """Count one image."""
        self.bytes += outcome.bytes or 0
        image = SeenImage(position=position, file=file, outcome=outcome, truth=truth)
        if outcome.reason is not None:
            if len(shown := self.errors[outcome.reason]) < SHOWN_ERRORS:
                shown.append(image)
            return
        label, score = outcome.label, outcome.score
        if label is None or score is None:
            raise OutputError(f"the row of {outcome.path!r} has no label; 'tandem batch verify' says what is wrong")
        self.labels[label] += 1
        is_wrong = truth is not None and truth != label
        (self.wrong if is_wrong else self.right)[min(int(score * SCORE_BINS), SCORE_BINS - 1)] += 1
        if self.least_certain.takes(score):
            self.least_certain.add(score, image)
        if is_wrong and self.surest_mistakes.takes(-score):
            self.surest_mistakes.add(-score, image)
        if truth is not None:
            self.pairs[truth, label] += 1


def survey(results: Results, advance: Advance) -> Survey:
    """Return the survey of all committed rows.

    Args:
        results: the results in an output.
        advance: called with the number of images that are newly done.

    Raises:
        OutputError: a part or the plan is missing, or is not what the run wrote.
    """
    run = results.run
    problems = [each.plan_problem() for each in results.folders]
    if all(problems):
        raise OutputError(str(problems[0]))
    whole = results.folders[problems.index(None)]
    labels = frozenset(run.labels)
    seen = Survey(has_truth=results.record().accuracy is not None)
    files = results.images(whole.folder.plan, inputs_of(run.plan))
    for folder, commit in results.parts():
        of_chunk = list(islice(files, run.plan.rows(commit.chunk)))
        for row, (file, outcome) in enumerate(zip(of_chunk, _outcomes(folder, commit), strict=True)):
            truth = file.label(labels) if seen.has_truth else None
            seen.add(commit.chunk * run.plan.chunk_size + row, file, outcome, truth)
        advance(commit.rows)
    return seen


def _outcomes(results: FolderResults, commit: Commit) -> list[Outcome]:
    try:
        outcomes = read_outcomes(results.folder.read_part(commit), results.run.columns)
        if len(outcomes) != results.run.plan.rows(commit.chunk):
            raise ValueError(f"it has {counted(len(outcomes), 'row')}")
    except ValueError as error:
        raise OutputError(
            f"the part '{results.folder.parts / commit.part}' can't be used ({error}); 'tandem batch verify' says more"
        ) from error
    return outcomes


def top_scores(results: Results, images: Iterable[SeenImage]) -> dict[int, tuple[Score, ...]]:
    """Return the best labels of these images, by position."""
    placed = {commit.chunk: (each, commit) for each, commit in results.parts()}
    size = results.run.plan.chunk_size
    wanted: dict[int, list[int]] = defaultdict(list)
    for image in images:
        wanted[image.position // size].append(image.position % size)
    found: dict[int, tuple[Score, ...]] = {}
    for chunk, rows in wanted.items():
        each, commit = placed[chunk]
        of_chunk = read_rows(each.folder.read_part(commit), results.run.columns)
        found |= {chunk * size + row: of_chunk[row].top_k or () for row in rows}
    return found
