"""The page of a survey."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.review.survey import SCORE_BINS
from batch.review.templates import Figure, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.review.results import Results
    from batch.review.status import Status
    from batch.review.survey import SeenImage, Survey
    from batch.rows.columns import Score
    from batch.run.record import RunRecord

TEMPLATE = Path(__file__).with_name("report.html.jinja")

MATRIX_CLASSES = 30
"""Maximum size of a confusion matrix that people can read. Above it, only the most confused pairs are listed."""

SHOWN_PAIRS, SHOWN_CLASSES, SHOWN_ATTEMPTS = 25, 1000, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class, compared with the folder names.

    Attributes:
        images: number of images in the class folder.
        predicted: number of images with this top label, in any folder.
        correct: number of images that are both.
    """

    label: str
    images: int
    predicted: int
    correct: int

    @property
    def recall(self) -> float | None:
        """The share of its images that are recognised; None if it has none."""
        return self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """The share of its predictions that are right; None if there are none."""
        return self.correct / self.predicted if self.predicted else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bin of the score histogram, in units of the drawing: view box 0 0 400 205, y downwards."""

    low: float
    high: float
    right: int
    wrong: int
    x: float
    width: float
    right_y: float
    right_height: float
    wrong_y: float
    wrong_height: float


def render_page(
    results: Results,
    status: Status,
    seen: Survey,
    *,
    top: Mapping[int, Sequence[Score]],
    thumbnails: Mapping[int, str] | None,
) -> str:
    """Return the page.

    Args:
        results: the results in the output.
        status: of the run.
        seen: the survey of all rows.
        top: best labels of the shown images, by position.
        thumbnails: data URIs of the shown images, by position; None for a page without images.
    """

    def figures(images: Iterable[SeenImage]) -> list[Figure]:
        return [_figure(each, top[each.position], (thumbnails or {}).get(each.position)) for each in images]

    record = results.record()
    return render(
        TEMPLATE,
        run=results.run,
        record=record,
        status=status,
        seen=seen,
        thumbnails=thumbnails,
        engine=str(results.run.engine),
        least_certain=figures(seen.least_certain),
        surest_mistakes=figures(seen.surest_mistakes),
        errors=sorted(record.errors.items(), key=lambda item: (-item[1], item[0])),
        labels=seen.labels.most_common(SHOWN_CLASSES),
        all_labels=len(seen.labels),
        bars=_bars(seen),
        elapsed_s=sum(attempt.elapsed_s for attempt in record.attempts),
        attempts=record.attempts[-SHOWN_ATTEMPTS:],
        **confusion(seen),
        **_when(record),
    )


def _figure(image: SeenImage, scores: Sequence[Score], picture: str | None) -> Figure:
    path, label = image.outcome.path, image.outcome.label
    return Figure(
        path=path,
        place=f"{image.outcome.input}/{path}",
        picture=picture,
        guesses=scores[:2],
        truth=None if image.truth == label else image.truth,
    )


def confusion(seen: Survey) -> dict[str, Any]:
    """Return the comparison with the folder names for the template; empty tables if folders are not labels."""
    images: Counter[str] = Counter()
    for (truth, _), count in seen.pairs.items():
        images[truth] += count
    present = sorted(images.keys() | (seen.labels.keys() if seen.has_truth else set()), key=_natural)
    classes = [
        ClassRow(label=label, images=images[label], predicted=seen.labels[label], correct=seen.pairs[label, label])
        for label in present
    ]
    if len(present) > MATRIX_CLASSES:
        classes.sort(key=lambda row: 2.0 if row.recall is None else row.recall)
    mistakes = Counter({pair: count for pair, count in seen.pairs.items() if pair[0] != pair[1]})
    return {
        "classes": classes[:SHOWN_CLASSES],
        "all_classes": len(classes),
        "matrix": present if len(present) <= MATRIX_CLASSES else None,
        "mistakes": mistakes.most_common(SHOWN_PAIRS),
        "all_mistakes": mistakes.total(),
        "images_of": images,
    }


def _natural(label: str) -> tuple[bool, int, str]:
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def _bars(seen: Survey) -> list[Bar]:
    highest = max(map(sum, zip(seen.right, seen.wrong, strict=True))) or 1
    width = 400 / SCORE_BINS
    bars = []
    for i, (right, wrong) in enumerate(zip(seen.right, seen.wrong, strict=True)):
        right_height, wrong_height = (200 * count / highest for count in (right, wrong))
        bars.append(
            Bar(
                low=i / SCORE_BINS, high=(i + 1) / SCORE_BINS, right=right, wrong=wrong,
                x=round(i * width + 1, 2), width=round(width - 2, 2),
                right_y=round(205 - right_height, 2), right_height=round(right_height, 2),
                wrong_y=round(205 - right_height - wrong_height, 2), wrong_height=round(wrong_height, 2),
            )
        )  # fmt: skip
    return bars


def _when(record: RunRecord) -> dict[str, Any]:
    ended = [attempt.ended for attempt in record.attempts if attempt.ended]
    started = [attempt.started for attempt in record.attempts]
    return {"started": min(started, default=None), "ended": max(ended, default=None)}
