"""How good a model is on labelled images: accuracy, each class, calibration, the worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier.types import EngineInfo  # noqa: TC001 # msgspec reads the annotations
from export.measuring.evaluation import measure
from validation.scoring import Data, FailedImage  # noqa: TC001 # msgspec reads the annotations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.measuring.evaluation import ClassMetrics
    from validation.scoring import ScoredFiles

CALIBRATION_BINS = 15
"""As in Guo et al. (2017)."""

WORST_MISTAKES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """How well one label is recognised.

    Attributes:
        precision: fraction of the images given this label that really have it; None if no image was given it.
        recall: fraction of the images with this label that were given it; None if no image has it.
        f1: harmonic mean of the two, 2 · right / (given + having); None if no image has it nor was given it.
        support: number of images with this label.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """The images whose top score is above `low` and at most `high`; in the first bin, also 0.

    Attributes:
        score: mean of their top scores; None without images.
        acc1: fraction of them whose top label is right; None without images.
    """

    low: float
    high: float
    images: int
    score: float | None
    acc1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether the top score of an image is the probability that its top label is right.

    Attributes:
        ece: expected calibration error: the difference between score and acc1, mean over the bins, weighted by their
            images. 0 is best. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
        bins: of equal width.
    """

    ece: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image whose top label is wrong.

    Attributes:
        position: its number among the images of the folder, from 0.
        label: the label that it has.
        given: the top label.
        score: of the top label.
        label_score: of the label that it has.
    """

    path: str
    position: int
    label: str
    given: str
    score: float
    label_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The result of `tandem val`. Fractions and loss are rounded to six decimals.

    Attributes:
        images: number of images that have scores; the numbers below are about them.
        failed: images without scores.
        correct: number of images whose top label is right.
        acc1: fraction of the images whose top label is right.
        acc5: fraction of the images whose label is among the top five; None if the model has at most five labels.
        loss: mean cross-entropy.
        confusion: true label → given label → number of images, without zeros.
        mistakes: number of images whose top label is wrong.
        worst: the first WORST_MISTAKES of them, the highest score first.
    """

    model: str
    digest: str
    engine: EngineInfo
    data: Data
    images: int
    failed: tuple[FailedImage, ...]
    correct: int
    acc1: float
    acc5: float | None
    loss: float
    per_class: tuple[ClassResult, ...]
    confusion: dict[str, dict[str, int]]
    calibration: Calibration
    mistakes: int
    worst: tuple[Mistake, ...]


def validate(scored: ScoredFiles) -> Validation:
    """Return the measurements of images that have scores. Ties of scores go to the lower index, as in top-k."""
    positions = np.flatnonzero(scored.ok)
    scores, truth = scored.scores[positions], scored.truth[positions]
    metrics = measure(scores, truth, scored.labels)
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(best)), best]
    wrong = np.flatnonzero(best != truth)
    worst = wrong[np.argsort(-top[wrong], kind="stable")][:WORST_MISTAKES]
    return Validation(
        model=scored.model,
        digest=scored.digest,
        engine=scored.engine,
        data=scored.data,
        images=len(truth),
        failed=scored.failed,
        correct=len(truth) - len(wrong),
        acc1=metrics.acc1,
        acc5=metrics.acc5,
        loss=metrics.loss,
        per_class=tuple(_class_result(each, metrics.confusion) for each in metrics.per_class),
        confusion={label: given for label, given in metrics.confusion.items() if given},
        calibration=calibrate(top, best == truth),
        mistakes=len(wrong),
        worst=tuple(
            Mistake(
                path=scored.files[positions[row]].printable_path,
                position=int(positions[row]),
                label=scored.labels[truth[row]],
                given=scored.labels[best[row]],
                score=float(top[row]),
                label_score=float(scores[row, truth[row]]),
            )
            for row in worst.tolist()
        ),
    )


def calibrate(top: NDArray[np.float32], right: NDArray[np.bool_]) -> Calibration:
    """Return the calibration of top scores `[N]`, given which top labels are right."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # A softmax can add up to a little more than 1.
    which = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, CALIBRATION_BINS - 1)
    images = np.bincount(which, minlength=CALIBRATION_BINS)
    scores = np.bincount(which, weights=top.astype(np.float64), minlength=CALIBRATION_BINS)
    rights = np.bincount(which, weights=right.astype(np.float64), minlength=CALIBRATION_BINS)
    return Calibration(
        ece=round(float(np.abs(scores - rights).sum() / len(top)), 6),
        bins=tuple(
            CalibrationBin(
                low=round(float(edges[i]), 6),
                high=round(float(edges[i + 1]), 6),
                images=int(count),
                score=round(float(scores[i] / count), 6) if count else None,
                acc1=round(float(rights[i] / count), 6) if count else None,
            )
            for i, count in enumerate(images.tolist())
        ),
    )


def _class_result(metrics: ClassMetrics, confusion: dict[str, dict[str, int]]) -> ClassResult:
    label = metrics.label
    right = confusion[label].get(label, 0)
    either = metrics.support + sum(given.get(label, 0) for given in confusion.values())
    return ClassResult(
        label=label,
        precision=metrics.precision,
        recall=metrics.recall,
        f1=round(2 * right / either, 6) if either else None,
        support=metrics.support,
    )
