"""What `tandem models list` and `show` print of a model: as values for JSON, and as cells for a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.filesize import decimal

from classifier.artifact import EVALUATION
from classifier.errors import DamagedArtifact
from classifier.types import CpuFeature, DeviceKind, ModelConfig, Precision, from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.oci.artifact import Artifact


SHOWN_LABELS = 10
"""ImageNet's thousand would fill the page; the JSON has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The parts of `export.evaluation.Metrics` that are a line long."""

    acc1: float
    acc5: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSummary:
    """What was measured of one way of running a model, and on which images."""

    dataset: str
    images: int
    fp32_acc1: float
    metrics: Accuracy
    agreement: float
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSummary:
    """One way of running a model: how good it is, and whether it may be run so."""

    precision: Precision
    engine: str
    device: DeviceKind
    needs: tuple[CpuFeature, ...]
    allowed: bool
    reason: str
    note: str
    measurement: MeasurementSummary | None

    def cells(self) -> tuple[str, ...]:
        """Return its row of the table whose columns are `PRECISION_COLUMNS`."""
        numbers: tuple[str, ...] = ("-",) * 5
        if (measured := self.measurement) is not None:
            numbers = (
                f"{measured.metrics.acc1:.2%}",
                f"{measured.fp32_acc1:.2%}",
                f"{measured.agreement:.2%}",
                f"{measured.max_difference:.1e}",
                f"{measured.images:,} of {measured.dataset}",
            )
        return self.precision, self.engine, self.device, *numbers, self.verdict

    @property
    def verdict(self) -> str:
        """Whether it may be run so: `yes`, `yes, with VNNI`, `no: …`."""
        if not self.allowed:
            return f"no: {self.reason}"
        needs = "".join(f", with {feature}" for feature in self.needs)
        return f"yes{needs}{self.note and f'; {self.note}'}"


PRECISION_COLUMNS = (
    "PRECISION", "ENGINE", "DEVICE", "ACC1", "FP32 ACC1", "SAME LABEL", "DIFFERENCE", "IMAGES", "ALLOWED",
)  # fmt: skip
"""Of a row of `PrecisionSummary.cells`; the difference is the largest of a probability from that of fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """What `evaluation.json` says in a few lines. Its writer, and all of it, is `export.evaluation.Evaluation`."""

    dataset: str
    split: str
    images: int
    torch: Accuracy
    max_accuracy_drop: float
    precisions: tuple[PrecisionSummary, ...]

    @property
    def acc1(self) -> float | None:
        """That of the way of running that all models have: ONNX Runtime in fp32."""
        measured = self.precisions[0].measurement if self.precisions else None
        return None if measured is None else measured.metrics.acc1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A model in one line. What a damaged model can't tell is None.

    Attributes:
        labels: how many there are.
        acc1: of the precision that is allowed first, on the images that `evaluation.json` names.
        damaged: what is wrong; None where manifest, config and evaluation could be read.
    """

    reference: str
    name: str
    version: int | None
    aliases: tuple[str, ...]
    digest: str
    size_bytes: int | None = None
    labels: int | None = None
    architecture: str | None = None
    acc1: float | None = None
    damaged: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the model's row of the table."""
        return (
            self.reference if self.version is not None else self.name,
            ", ".join(self.aliases) or "-",
            self.digest[:19],
            "damaged" if self.size_bytes is None else decimal(self.size_bytes),
            "-" if self.labels is None else str(self.labels),
            self.architecture or "-",
            "-" if self.acc1 is None else f"{self.acc1:.2%}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a model."""

    file: str
    media_type: str
    size_bytes: int
    digest: str

    def cells(self) -> tuple[str, ...]:
        """Return the file's row of the table."""
        return self.file, decimal(self.size_bytes), self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A model on one page."""

    reference: str
    name: str
    version: int | None
    aliases: tuple[str, ...]
    digest: str
    size_bytes: int
    config: ModelConfig
    evaluation: EvaluationSummary | None
    files: tuple[File, ...]

    def facts(self) -> list[tuple[str, str]]:
        """Return what there is to say beside the files, each with its heading."""
        config, evaluation = self.config, self.evaluation
        pixels = config.preprocessing
        labels = ", ".join(config.labels[:SHOWN_LABELS]) + (", …" if len(config.labels) > SHOWN_LABELS else "")
        sizes = f"resized to {pixels.resize_size} px, cropped to {pixels.crop_size}"
        facts = [
            ("digest", self.digest),
            ("aliases", ", ".join(self.aliases) or "-"),
            ("architecture", config.architecture),
            ("labels", f"{len(config.labels)}: {labels}"),
            ("input", f"{pixels.decode} decode, {sizes}, {pixels.interpolation}"),
        ]
        if config.embedding_size:
            facts.append(("embeddings", f"{config.embedding_size} numbers, what the last layer takes"))
        if evaluation is not None:
            facts.append(("evaluated on", f"{evaluation.images} images of {evaluation.dataset}/{evaluation.split}"))
            facts.append(("acc1 of torch", f"{evaluation.torch.acc1:.2%}"))
            facts.append(("may lose", f"{100 * evaluation.max_accuracy_drop:g} points of acc1 at a lower precision"))
        return facts


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table that gives each column the room that its cells take.

    What a model or a registry says of itself stands in the cells: nothing in them can move a terminal's cursor.
    """
    rows = [["".join(char if char.isprintable() else " " for char in cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def summarise(artifact: Artifact) -> Summary:
    """Return the line of the list that `artifact` gets, damaged or not."""
    names = Summary(
        reference=artifact.reference,
        name=artifact.name,
        version=artifact.version,
        aliases=artifact.aliases,
        digest=artifact.digest,
    )
    try:
        description = describe_model(artifact)
    except DamagedArtifact as error:
        return replace(names, damaged=str(error))
    evaluation = description.evaluation
    return replace(
        names,
        size_bytes=description.size_bytes,
        labels=len(description.config.labels),
        architecture=description.config.architecture,
        acc1=None if evaluation is None else evaluation.acc1,
    )


def describe_model(artifact: Artifact) -> Description:
    """Return all that `artifact` says of itself.

    Raises:
        DamagedArtifact: its manifest, config or evaluation is missing, or not what its digest says.
    """
    files = artifact.files
    return Description(
        reference=artifact.reference,
        name=artifact.name,
        version=artifact.version,
        aliases=artifact.aliases,
        digest=artifact.digest,
        size_bytes=sum(layer.size for layer in files.values()),
        config=artifact.config,
        evaluation=_evaluation(artifact) if EVALUATION in files else None,
        files=tuple(
            File(file=file, media_type=layer.media_type, size_bytes=layer.size, digest=layer.digest)
            for file, layer in files.items()
        ),
    )


def _evaluation(artifact: Artifact) -> EvaluationSummary | None:
    try:
        return from_json(artifact.read(EVALUATION), EvaluationSummary)
    except ValueError:
        # Written by another release: a model is no worse for an evaluation that can't be shown.
        return None
