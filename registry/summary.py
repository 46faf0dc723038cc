"""What `tandem models list` and `show` print: values for JSON, and cells for a table.

`EvaluationSummary` and its parts repeat fields of `export.measuring.evaluation.Evaluation` on purpose: `models show
--json` prints exactly these, so an evaluation from another release needs no other fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.filesize import decimal

from classifier.artifact import EVALUATION
from classifier.errors import DamagedArtifact
from classifier.types import CpuFeature, DeviceKind, ModelConfig, Precision, from_json

if TYPE_CHECKING:
    from registry.oci.artifact import Artifact


SHOWN_LABELS = 10
"""ImageNet's thousand labels would fill the page; the JSON has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The accuracy on some images, as parts of 1; `acc5` is None with five labels or fewer."""

    acc1: float
    acc5: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSummary:
    """The measurement of one way to run a model, and its images."""

    dataset: str
    images: int
    fp32_acc1: float
    metrics: Accuracy
    agreement: float
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSummary:
    """One way to run a model: how good it is, and whether it is allowed."""

    precision: Precision
    engine: str
    device: DeviceKind
    needs: tuple[CpuFeature, ...]
    allowed: bool
    reason: str
    note: str
    measurement: MeasurementSummary | None

    def cells(self) -> tuple[str, ...]:
        """Return the row under `PRECISION_COLUMNS`."""
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
        """Whether this way is allowed: `yes`, `yes, with vnni`, `no: …`."""
        if not self.allowed:
            return f"no: {self.reason}"
        needs = "".join(f", with {feature}" for feature in self.needs)
        return f"yes{needs}{self.note and f'; {self.note}'}"


MODEL_COLUMNS = ("MODEL", "ALIASES", "DIGEST", "SIZE", "LABELS", "ARCHITECTURE", "ACC1")
"""The columns of `Summary.cells`."""

PRECISION_COLUMNS = (
    "PRECISION", "ENGINE", "DEVICE", "ACC1", "FP32 ACC1", "SAME LABEL", "DIFFERENCE", "IMAGES", "ALLOWED",
)  # fmt: skip
"""The columns of `PrecisionSummary.cells`; DIFFERENCE is a probability's largest distance from fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """The part of `evaluation.json` that fits on a page."""

    dataset: str
    split: str
    images: int
    torch: Accuracy
    max_accuracy_drop: float
    precisions: tuple[PrecisionSummary, ...]

    @property
    def acc1(self) -> float | None:
        """The acc1 of ONNX Runtime in fp32, which every model has."""
        measured = self.precisions[0].measurement if self.precisions else None
        return None if measured is None else measured.metrics.acc1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A model in one line; fields that a damaged model can't give are None.

    Attributes:
        labels: how many there are.
        acc1: in fp32 with ONNX Runtime, on the images that `evaluation.json` names.
        damaged: what is wrong; None if manifest, config and evaluation could be read.
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


FILE_COLUMNS = ("FILE", "SIZE", "DIGEST")
"""The columns of `File.cells`."""


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
        """Return heading and text of every fact except the files."""
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
            facts.append(("embeddings", f"{config.embedding_size} numbers, the input of the last layer"))
        if evaluation is not None:
            facts.append(("evaluated on", f"{evaluation.images} images of {evaluation.dataset}/{evaluation.split}"))
            facts.append(("acc1 of torch", f"{evaluation.torch.acc1:.2%}"))
            facts.append(("may lose", f"{100 * evaluation.max_accuracy_drop:g} points of acc1 at a lower precision"))
        return facts


def summarise(artifact: Artifact) -> Summary:
    """Return the list's line for `artifact`, damaged or not."""
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
    """Return everything that `tandem models show` prints of `artifact`.

    Raises:
        DamagedArtifact: manifest, config or evaluation is missing or damaged.
    """
    files = list_files(artifact)
    return Description(
        reference=artifact.reference,
        name=artifact.name,
        version=artifact.version,
        aliases=artifact.aliases,
        digest=artifact.digest,
        size_bytes=sum(file.size_bytes for file in files),
        config=artifact.config,
        evaluation=_evaluation(artifact) if EVALUATION in artifact.files else None,
        files=files,
    )


def list_files(artifact: Artifact) -> tuple[File, ...]:
    """Return the files of `artifact`, in the manifest's order.

    Raises:
        DamagedArtifact: the manifest is missing or damaged.
    """
    return tuple(
        File(file=file, media_type=layer.media_type, size_bytes=layer.size, digest=layer.digest)
        for file, layer in artifact.files.items()
    )


def _evaluation(artifact: Artifact) -> EvaluationSummary | None:
    try:
        return from_json(artifact.read(EVALUATION), EvaluationSummary)
    except ValueError:
        # Another release wrote it; the model is still usable.
        return None
