"""How good a network is on its validation images, by torch and by each engine: the artifact's `evaluation.json`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING

import numpy as np

from classifier.types import Precision  # noqa: TC001 - msgspec reads the annotation when it runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from export.scoring import ScoredImages


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """How well one label is recognised.

    Attributes:
        precision: of the images that got this label, the part that has it; None where no image got it.
        recall: of the images that have this label, the part that got it.
        support: how many images have this label.
    """

    label: str
    precision: float | None
    recall: float | None
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How good the scores of some images are. All parts are of 1, to six decimals.

    Attributes:
        acc1: part of the images whose best label is right.
        acc5: part whose label is among the best five; None where there are no more than five.
        loss: mean cross-entropy.
        confusion: label → label that was given → images; what never happened is left out.
    """

    acc1: float
    acc5: float | None
    loss: float
    per_class: tuple[ClassMetrics, ...]
    confusion: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionEvaluation:
    """What an artifact's graph does at one precision.

    Attributes:
        engine: what ran it, on the CPU.
        agreement: part of the images that get the same best label as from torch.
        max_difference: the largest distance of a probability from torch's, rounded up to two digits.
    """

    engine: str
    precision: Precision
    metrics: Metrics
    agreement: float
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on the validation images: the artifact's `evaluation.json`.

    Attributes:
        dataset: the name of the data set's folder.
        images: how many validated.
        torch: the network itself, in fp32.
        precisions: the artifact's graphs, in the order of `ModelConfig.allowed`.
    """

    dataset: str
    split: str
    images: int
    torch: Metrics
    precisions: tuple[PrecisionEvaluation, ...]


def measure(scores: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]) -> Metrics:
    """Return the metrics of probabilities `[N, classes]`. Of equal ones the lower index is the better, as in top-k."""
    classes = len(labels)
    rows = np.arange(len(truth))
    own = scores[rows, truth, np.newaxis]
    better = (scores > own) | ((scores == own) & (np.arange(classes) < truth[:, np.newaxis]))
    rank = better.sum(axis=1)
    # A probability that underflowed to 0 would make the mean infinite.
    losses = -np.log(np.maximum(own[:, 0].astype(np.float64), np.finfo(np.float32).tiny))
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (truth, scores.argmax(axis=1)), 1)
    return Metrics(
        acc1=_part((rank < 1).sum(), len(truth)),
        acc5=_part((rank < 5).sum(), len(truth)) if classes > 5 else None,
        loss=round(float(losses.mean()), 6),
        per_class=tuple(
            ClassMetrics(
                label=label,
                precision=_part(confusion[i, i], given) if (given := confusion[:, i].sum()) else None,
                recall=_part(confusion[i, i], having) if (having := confusion[i].sum()) else None,
                support=int(having),
            )
            for i, label in enumerate(labels)
        ),
        confusion={
            label: {labels[j]: int(confusion[i, j]) for j in range(classes) if confusion[i, j]}
            for i, label in enumerate(labels)
        },
    )


def evaluate(scored: ScoredImages, labels: Sequence[str], *, engine: Engine, dataset: str) -> Evaluation:
    """Return the evaluation of scored images."""
    same = scored.scores.argmax(axis=1) == scored.reference.argmax(axis=1)
    return Evaluation(
        dataset=dataset,
        split="val",
        images=len(scored.truth),
        torch=measure(scored.reference, scored.truth, labels),
        precisions=(
            PrecisionEvaluation(
                engine=engine.info.name,
                precision=engine.info.precision,
                metrics=measure(scored.scores, scored.truth, labels),
                agreement=_part(same.sum(), len(same)),
                max_difference=round_up(scored.max_difference),
            ),
        ),
    )


def round_up(value: float) -> float:
    """Return the smallest number of two significant digits that is not below `value`."""
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(value))


def _part(count: np.int64, total: np.int64 | int) -> float:
    return round(int(count) / int(total), 6)
