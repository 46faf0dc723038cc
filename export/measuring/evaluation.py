"""The accuracy of a model, in torch and in each engine that may run it: the artifact's `evaluation.json`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from classifier.types import AllowedPrecision, CpuFeature, DeviceKind, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier.types import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """How well one label is recognised.

    Attributes:
        precision: fraction of the images given this label that really have it; None if no image was given it.
        recall: fraction of the images with this label that were given it; None if no image has it.
        support: number of images with this label.
    """

    label: str
    precision: float | None
    recall: float | None
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The accuracy of a set of scores. Fractions and loss are rounded to six decimals.

    Attributes:
        acc1: fraction of the images whose top label is right.
        acc5: fraction of the images whose label is among the top five; None if the model has at most five labels.
        loss: mean cross-entropy.
        confusion: true label → given label → number of images, without zeros.
    """

    acc1: float
    acc5: float | None
    loss: float
    per_class: tuple[ClassMetrics, ...]
    confusion: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How one way of running a model compares with fp32 on the same images.

    Attributes:
        dataset: the name of the images' folder.
        images: number of images.
        fp32_acc1: acc1 of the same images in fp32: by torch, or in `tandem evaluate` by ONNX Runtime on the CPU.
        agreement: fraction of the images with the same top label as in fp32.
        max_difference: the largest difference between a probability and that in fp32, rounded up to two digits.
        run_alone: number of images that were also run one at a time; on a CPU, on one thread. 0 for ONNX Runtime in
            fp32 on the CPU, of which an export keeps only what passes.
        unlike_alone: number of these whose scores then differed in any bit.
        engine_version: the engine's.
        instruction_set: of the CPU or GPU, as in `EngineInfo`.
    """

    dataset: str
    images: int
    fp32_acc1: float
    metrics: Metrics
    agreement: float
    max_difference: float
    run_alone: int = 0
    unlike_alone: int = 0
    engine_version: str
    instruction_set: str

    @property
    def acc1_drop(self) -> float:
        """By how much acc1 is lower than in fp32; negative if it is higher."""
        return round(self.fp32_acc1 - self.metrics.acc1, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionEvaluation:
    """One way of running an artifact: its measurement, and whether it is allowed.

    Attributes:
        precision: this, `engine`, `device`, `graph`, `needs` and `batch_size` are as in `AllowedPrecision`.
        allowed: whether the artifact may be run this way.
        reason: why not, in a few words; empty if allowed.
        note: a remark, such as which layers stay in fp32.
        measurement: None if it has not been measured.
    """

    precision: Precision
    engine: str
    device: DeviceKind
    graph: str
    needs: tuple[CpuFeature, ...] = ()
    batch_size: int | msgspec.UnsetType = msgspec.UNSET
    allowed: bool
    reason: str = ""
    note: str = ""
    measurement: Measurement | None

    def way(self) -> AllowedPrecision:
        """Return the way of running, without its results."""
        return AllowedPrecision(
            precision=self.precision,
            engine=self.engine,
            device=self.device,
            graph=self.graph,
            needs=self.needs,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model's accuracy, and the ways it may be run: the artifact's `evaluation.json`.

    Attributes:
        dataset: the name of the data set's folder.
        images: number of validation images.
        torch: metrics of the network itself, in torch and fp32.
        max_accuracy_drop: the largest allowed loss of acc1 against fp32.
        precisions: every way of running that was considered, the most exact first.
    """

    dataset: str
    split: str
    images: int
    torch: Metrics
    max_accuracy_drop: float
    precisions: tuple[PrecisionEvaluation, ...]

    @property
    def fp32(self) -> Measurement:
        """The measurement of ONNX Runtime in fp32 on the CPU."""
        measured = self.precisions[0].measurement
        assert measured is not None  # `tandem export` always measures this way
        return measured

    def allowed(self) -> tuple[AllowedPrecision, ...]:
        """Return the allowed ways of running the artifact."""
        return tuple(each.way() for each in self.precisions if each.allowed)


def measure(scores: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]) -> Metrics:
    """Return the metrics of probabilities `[N, classes]`; ties go to the lower index, as in top-k."""
    classes = len(labels)
    rows = np.arange(len(truth))
    own = scores[rows, truth, np.newaxis]
    better = (scores > own) | ((scores == own) & (np.arange(classes) < truth[:, np.newaxis]))
    rank = better.sum(axis=1)
    # Without a lower bound, a probability that underflowed to 0 would make the mean infinite.
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


def compare(
    scores: NDArray[np.float32],
    fp32: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    *,
    engine: EngineInfo,
    dataset: str,
) -> Measurement:
    """Return how probabilities `[N, classes]` compare with those in fp32."""
    best = scores.argmax(axis=1)
    return Measurement(
        dataset=dataset,
        images=len(truth),
        fp32_acc1=measure(fp32, truth, labels).acc1,
        metrics=measure(scores, truth, labels),
        agreement=_part((best == fp32.argmax(axis=1)).sum(), len(best)),
        max_difference=round_up(float(np.abs(scores - fp32).max())),
        engine_version=engine.version,
        instruction_set=engine.instruction_set,
    )


def round_up(value: float) -> float:
    """Return `value` rounded up to two significant digits."""
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(value))


def _part(count: np.int64, total: np.int64 | int) -> float:
    return round(int(count) / int(total), 6)
