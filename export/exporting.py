"""A training run → an artifact in the registry, where nothing enters that was not measured and self-tested."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.sessions import load_runtime
from classifier.errors import DataError, InvalidReference
from classifier.progress import show_progress
from classifier.types import ModelConfig, from_json, to_json
from export.calibration import calibration_images
from export.card import write_card
from export.entry import check_writable, self_test_files
from export.evaluation import Evaluation, measure
from export.golden import make_golden_set
from export.graph import OPSET, embedding_size_of, export_graph, find_head
from export.images import LabelledImages
from export.precisions import MAX_ACCURACY_DROP, PRECISIONS, WAYS, Yardstick, tolerances
from export.scoring import score_images
from export.variants import make_fp16, make_int8, measure_fp32_graph
from registry import Added, LocalRegistry, Reference
from registry.oci.references import check_alias
from training.files import METRICS
from training.metrics import EpochMetrics, best_epoch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from classifier.types import Precision
    from export.evaluation import Measurement
    from export.variants import Variant
    from training.run import Run

logger = logging.getLogger(__name__)

MAX_ACC1_DIFFERENCE = 0.005
"""By how much acc1 may differ from the one in training, where a GPU rounded otherwise. On a CPU it is the same."""


def export_run(
    run: Run,
    *,
    name: str,
    registry: LocalRegistry,
    aliases: Sequence[str] = (),
    precisions: Collection[Precision] = PRECISIONS,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    embeddings: bool = False,
) -> Added:
    """Return the artifact of a run's best network, now the next version of `name` in the registry.

    A run whose artifact the registry holds already makes no new version. In both cases `aliases` are put on it.

    Args:
        run: the run.
        name: of the model.
        registry: where it goes.
        aliases: what to call the version, beside its number.
        precisions: which to make and measure, beside fp32, which all artifacts have.
        max_accuracy_drop: by how much the acc1 of one that is allowed may be lower than that of fp32.
        embeddings: whether the graphs also give what the network's last layer takes.

    Raises:
        InvalidReference: `name` can't be a new model's, or an alias no alias.
        RegistryUnwritable: the registry can't be written.
        EngineUnavailable: ONNX Runtime isn't installed, or twice.
        DataError: the run has no complete epoch, or its validation images are gone or others.
        ExportRefused: the network can't be written as ONNX, or its graph gives other scores.
        SelfTestFailed: the artifact does not give its own golden scores.
    """
    # What can be known before minutes of work.
    check_name(name)
    for alias in aliases:
        Reference(name=name, tag=check_alias(alias))
    check_writable(registry)
    load_runtime()
    files = build_artifact(
        run, name=name, precisions=precisions, max_accuracy_drop=max_accuracy_drop, embeddings=embeddings
    )
    logger.info("Self-testing the artifact")
    self_test_files(name, files)
    added = registry.add(name, files)
    if not aliases:
        return added
    return replace(added, artifact=registry.tag(added.artifact.identity, *aliases))


def check_name(name: str) -> None:
    """Check that a new model may have this name, which the registry gives a version.

    Raises:
        InvalidReference: it may not.
    """
    parsed = Reference.parse(name)
    if name != parsed.name:
        raise InvalidReference(f"'{name}' is no name for a new model: write '{parsed.name}', the registry numbers it")


def build_artifact(
    run: Run, *, name: str, precisions: Collection[Precision], max_accuracy_drop: float, embeddings: bool
) -> dict[str, bytes]:
    """Return the files of a run's artifact: the same bytes for the same run, on the same machine.

    Raises:
        DataError: the run has no complete epoch, or its validation images are gone or others.
        ExportRefused: the network can't be written as ONNX, or its graph gives other scores.
    """
    config, network, samples = run.config, run.load_network(), run.validation_files()
    acc1_in_training = _read_acc1(run)
    _check_all_there(run, samples)
    logger.info("Writing the graph of %s, %d labels", config.architecture, len(config.labels))
    head = find_head(network, config.preprocessing) if embeddings else None
    graph = export_graph(network, config.labels, config.preprocessing, head=head)

    logger.info("Comparing it with torch on %d validation images", len(samples))
    images = LabelledImages(samples, config.preprocessing)
    engine = OnnxRuntimeEngine(graph, device="cpu")
    with show_progress(len(images), title="fp32") as advance:
        scored = score_images(network, engine, images, config.preprocessing, head=head, advance=advance)
    torch_metrics = measure(scored.reference, images.truth, config.labels)
    _check_same_images(run, torch_metrics.acc1, acc1_in_training)

    model_config = ModelConfig(
        name=name,
        architecture=config.architecture,
        labels=config.labels,
        preprocessing=config.preprocessing,
        allowed=WAYS[:1],
        opset=OPSET,
        embedding_size=UNSET if head is None else embedding_size_of(network, head),
    )
    yardstick = Yardstick(dataset=Path(config.data).name, images=images, config=model_config, fp32=scored.reference)
    fp32 = yardstick.compare(scored.scores, engine)
    variants = list(_make_variants(run, graph, yardstick, fp32, precisions=precisions, limit=max_accuracy_drop))
    evaluation = Evaluation(
        dataset=yardstick.dataset,
        split="val",
        images=len(images),
        torch=torch_metrics,
        max_accuracy_drop=max_accuracy_drop,
        precisions=tuple(each for variant in variants for each in variant.evaluations),
    )
    model_config = replace(model_config, allowed=evaluation.allowed())
    golden = make_golden_set(images, scored.reference, tolerances=tolerances(evaluation.precisions))
    return {
        **{variant.file: variant.graph for variant in variants if variant.graph is not None},
        CONFIG: to_json(model_config),
        EVALUATION: to_json(evaluation),
        GOLDEN: golden.to_bytes(),
        CARD: write_card(model_config, evaluation, config).encode(),
    }


def _make_variants(
    run: Run,
    graph: bytes,
    yardstick: Yardstick,
    fp32: Measurement,
    *,
    precisions: Collection[Precision],
    limit: float,
) -> Iterator[Variant]:
    logger.info("Measuring %s on the same images", ", ".join(precisions))
    yield measure_fp32_graph(graph, yardstick, fp32, precisions=precisions, limit=limit)
    if "fp16" in precisions:
        yield make_fp16(graph, yardstick, limit=limit)
    if "int8" in precisions:
        yield make_int8(graph, yardstick, limit=limit, calibration_images=lambda: calibration_images(run))


def _check_all_there(run: Run, samples: Sequence[tuple[Path, int]]) -> None:
    if not samples:
        raise DataError(f"the run {run.path} lists no validation images: train again")
    if missing := [path for path, _ in samples if not path.is_file()]:
        raise DataError(
            f"{len(missing):,} of the {len(samples):,} images that validated the run {run.path} can't be found, the "
            f"first {missing[0]}: restore the data set, or train again"
        )


def _check_same_images(run: Run, now: float, then: float) -> None:
    """Check that the network's acc1 on the validation images is what it was in training, or they are others."""
    if abs(now - then) > MAX_ACC1_DIFFERENCE:
        raise DataError(
            f"the validation images in {run.config.data} give acc1 {now:.2%} where training measured {then:.2%}, so "
            "they are not the same any more: restore the data set, or train again"
        )


def _read_acc1(run: Run) -> float:
    try:
        lines = (run.path / METRICS).read_bytes().splitlines()
        return best_epoch([from_json(line, EpochMetrics) for line in lines]).val_acc1
    except (OSError, ValueError) as error:
        raise DataError(
            f"{run.path / METRICS} can't be read ({error}): 'tandem train … --run {run.path} --resume' writes it again"
        ) from error
