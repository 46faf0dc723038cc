"""Which of two models is better on the same images, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier.errors import DataError
from classifier.types import EngineInfo  # noqa: TC001 # msgspec reads the annotations
from validation.paired import CONFIDENCE, INTERVAL_METHOD, TEST_METHOD, mcnemar, paired_interval
from validation.scoring import Data, FailedImage  # noqa: TC001 # msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from validation.scoring import ScoredFiles

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two models.

    Attributes:
        correct: number of the compared images whose top label is right.
        acc1: fraction of the compared images whose top label is right.
        failed: images without scores from this model.
    """

    model: str
    digest: str
    engine: EngineInfo
    correct: int
    acc1: float
    failed: tuple[FailedImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassComparison:
    """One label.

    Attributes:
        support: number of compared images with this label.
        a_recall: fraction of them that A gave this label.
        b_recall: fraction of them that B gave this label.
        a_only: number of them that only A gave this label.
        b_only: number of them that only B gave this label.
    """

    label: str
    support: int
    a_recall: float
    b_recall: float
    a_only: int
    b_only: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The top label of an image; None if the model has no scores for it."""

    label: str | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An image to which the models give different labels.

    Attributes:
        position: its number among the images of the folder, from 0.
        label: the label that it has.
    """

    path: str
    position: int
    label: str
    a: Answer
    b: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of `tandem compare`: bound to both models' digests and to the digest of the data.

    Fractions are rounded to six decimals.

    Attributes:
        a: the model to compare with.
        b: the model in question.
        images: number of images that were compared: those for which at least one model has scores. If the other has
            none, that counts as its mistake.
        a_only: number of images on which only A is right.
        b_only: number of images on which only B is right.
        difference: acc1 of B minus acc1 of A.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        p_value: of the hypothesis that both are right equally often.
        verdict: of B against A; `undecided` unless the interval excludes 0 and p is below 0.05.
        per_class: the labels that have images.
        differences: all images to which the models give different labels.
        margin: by how much B may be worse; None if nothing was asked.
        passed: whether `low` is above minus `margin`; None if nothing was asked.
    """

    a: Side
    b: Side
    data: Data
    images: int
    a_only: int
    b_only: int
    difference: float
    low: float
    high: float
    confidence: float = CONFIDENCE
    interval_method: str = INTERVAL_METHOD
    p_value: float
    test_method: str = TEST_METHOD
    verdict: Verdict
    margin: float | None
    passed: bool | None
    per_class: tuple[ClassComparison, ...]
    differences: tuple[Difference, ...]


def check_labels(a: Sequence[str], b: Sequence[str], *, models: tuple[str, str]) -> None:
    """Check that two models have the same labels, in whatever order.

    Raises:
        DataError: they don't.
    """
    if only := sorted(set(a) ^ set(b)):
        having, lacking = models if only[0] in a else models[::-1]
        raise DataError(
            f"{models[0]} and {models[1]} have different labels ({having} has '{only[0]}', {lacking} lacks it); "
            "compare models with the same labels"
        )


def compare_scores(a: ScoredFiles, b: ScoredFiles, *, margin: float | None = None) -> Comparison:
    """Return the comparison of two models' scores of the same images.

    Args:
        a: from the model to compare with.
        b: from the model in question.
        margin: by how much the second may be worse.

    Raises:
        DataError: the images changed between the two, or the models have different labels.
    """
    check_labels(a.labels, b.labels, models=(a.model, b.model))
    if a.data.digest != b.data.digest:
        raise DataError(f"images in '{a.data.folder}' changed while they were compared; compare again")
    positions = np.flatnonzero(a.ok | b.ok)
    index_in_a = np.array([a.labels.index(label) for label in b.labels])
    truth = a.truth[positions]
    given_a = _given(a, positions, np.arange(len(a.labels)))
    given_b = _given(b, positions, index_in_a)
    right_a, right_b = given_a == truth, given_b == truth
    a_only, b_only = right_a & ~right_b, right_b & ~right_a
    counts, images = (int(a_only.sum()), int(b_only.sum())), len(positions)
    low, high = paired_interval(*counts, images)
    p_value = mcnemar(*counts)
    return Comparison(
        a=_side(a, right_a),
        b=_side(b, right_b),
        data=a.data,
        images=images,
        a_only=counts[0],
        b_only=counts[1],
        difference=round((counts[1] - counts[0]) / images, 6),
        low=round(low, 6),
        high=round(high, 6),
        p_value=float(f"{p_value:.6g}"),
        verdict=_verdict(low, high, p_value),
        margin=margin,
        passed=None if margin is None else low > -margin,
        per_class=tuple(
            ClassComparison(
                label=label,
                support=int(of_class.sum()),
                a_recall=round(float(right_a[of_class].mean()), 6),
                b_recall=round(float(right_b[of_class].mean()), 6),
                a_only=int(a_only[of_class].sum()),
                b_only=int(b_only[of_class].sum()),
            )
            for index, label in enumerate(a.labels)
            if (of_class := truth == index).any()
        ),
        differences=tuple(
            Difference(
                path=a.files[position].printable_path,
                position=position,
                label=a.labels[a.truth[position]],
                a=_answer(a, position),
                b=_answer(b, position),
            )
            for position in positions[given_a != given_b].tolist()
        ),
    )


def _given(scored: ScoredFiles, positions: NDArray[np.intp], index: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the top label of each image, as `index` numbers it; -1 without scores."""
    ok = scored.ok[positions]
    given = np.full(len(positions), -1, dtype=np.intp)
    given[ok] = index[scored.scores[positions[ok]].argmax(axis=1)]
    return given


def _side(scored: ScoredFiles, right: NDArray[np.bool_]) -> Side:
    return Side(
        model=scored.model,
        digest=scored.digest,
        engine=scored.engine,
        correct=int(right.sum()),
        acc1=round(float(right.mean()), 6),
        failed=scored.failed,
    )


def _verdict(low: float, high: float, p_value: float) -> Verdict:
    if p_value < 1 - CONFIDENCE and (low > 0 or high < 0):
        return "better" if low > 0 else "worse"
    return "undecided"


def _answer(scored: ScoredFiles, position: int) -> Answer:
    row = scored.scores[position]
    if np.isnan(row[0]):
        return Answer(label=None, score=None)
    best = int(row.argmax())
    return Answer(label=scored.labels[best], score=float(row[best]))
