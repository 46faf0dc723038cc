"""How good a network is, by torch and by each engine that may run it: the artifact's `evaluation.json`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING

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
class Measurement:
    """What one way of running a model does with some images, beside what fp32 does with them.

    Attributes:
        dataset: the name of the images' folder.
        images: how many there were.
        fp32_acc1: the same images' acc1 in fp32: by torch, or in `tandem evaluate` by ONNX Runtime on the CPU.
        agreement: part of the images that get the same best label as in fp32.
        max_difference: the largest distance of a probability from that of fp32, rounded up to two digits.
        run_alone: how many of the images were run by themselves, too, on a CPU on one thread.
        unlike_alone: how many of these got another bit then.
        engine_version: of what ran.
        instruction_set: of the CPU or GPU that ran it, as in `EngineInfo`.
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
        """By how much acc1 is lower than in fp32; negative where it is higher."""
        return round(self.fp32_acc1 - self.metrics.acc1, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionEvaluation:
    """One way of running an artifact: what was measured, and whether it may be run so.

    Attributes:
        precision: with `engine`, `device`, `graph` and `needs` as in `AllowedPrecision`.
        allowed: whether it may be run so.
        reason: why not, in a few words; empty where it may.
        note: what else is to be known of it.
        measurement: None where nothing has run it yet.
    """

    precision: Precision
    engine: str
    device: DeviceKind
    graph: str
    needs: tuple[CpuFeature, ...] = ()
    allowed: bool
    reason: str = ""
    note: str = ""
    measurement: Measurement | None

    def way(self) -> AllowedPrecision:
        """Return the way of running itself."""
        return AllowedPrecision(
            precision=self.precision, engine=self.engine, device=self.device, graph=self.graph, needs=self.needs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a model is, and how it may be run: the artifact's `evaluation.json`.

    Attributes:
        dataset: the name of the data set's folder.
        images: how many validated.
        torch: what the network itself, in fp32, does with them.
        max_accuracy_drop: by how much a precision's acc1 may be lower than that of fp32.
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
        """What ONNX Runtime does with the validation images in fp32, on the CPU."""
        measured = self.precisions[0].measurement
        assert measured is not None  # An export that can't measure this is refused.
        return measured

    def allowed(self) -> tuple[AllowedPrecision, ...]:
        """Return the ways in which the artifact may be run."""
        return tuple(each.way() for each in self.precisions if each.allowed)


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


def compare(
    scores: NDArray[np.float32],
    fp32: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    *,
    engine: EngineInfo,
    dataset: str,
) -> Measurement:
    """Return the measurement of probabilities `[N, classes]`, beside those that fp32 gives."""
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
    """Return the smallest number of two significant digits that is not below `value`."""
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(value))


def _part(count: np.int64, total: np.int64 | int) -> float:
    return round(int(count) / int(total), 6)
