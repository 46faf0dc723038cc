"""`tandem export`: a training run → an artifact in the registry, measured and self-tested."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.runtime import load_runtime
from classifier.errors import DataError
from classifier.progress import show_progress
from classifier.types import ModelConfig, to_json
from export.card import write_card
from export.entry import check_writable, self_test_files
from export.golden import make_golden_set
from export.graphs.calibration import calibration_images
from export.graphs.graph import OPSET, embedding_size_of, export_graph, find_head
from export.images import LabelledImages
from export.measuring.evaluation import Evaluation, measure
from export.measuring.precisions import MAX_ACCURACY_DROP, PRECISIONS, WAYS, Yardstick, tolerances
from export.measuring.scoring import score_images
from export.measuring.variants import make_fp16, make_int8, measure_baseline, measure_fp32_graph
from registry import Added, LocalRegistry, Reference
from registry.oci.references import check_alias, check_name
from training.metrics import best_epoch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import nn

    from classifier.types import Precision
    from export.measuring.evaluation import PrecisionEvaluation
    from export.measuring.variants import Variant
    from training.run import Run

logger = logging.getLogger(__name__)

MAX_ACC1_DIFFERENCE = 0.005
"""The largest allowed change of acc1 since training. On a CPU it stays the same; a GPU rounds differently."""


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
    """Add the artifact of a run's best network to the registry, as the next version of `name`; return it.

    If the registry already holds this artifact, it gets no new version. In both cases it gets the `aliases`.

    Args:
        run: the run.
        name: the model's name.
        registry: gets the artifact.
        aliases: tags for the version.
        precisions: precisions to make and measure, besides fp32.
        max_accuracy_drop: the largest loss of acc1 against fp32 at which a precision is allowed.
        embeddings: whether the graphs also output embeddings.

    Raises:
        InvalidReference: `name` or an alias is invalid.
        RegistryUnwritable: the registry can't be written.
        EngineUnavailable: ONNX Runtime is not installed, or installed twice.
        DataError: the run has no complete epoch, or its validation images are missing or have changed.
        ExportRefused: the network can't be written as ONNX, or its graph computes other scores.
        SelfTestFailed: the artifact does not reproduce its golden scores.
    """
    # Find errors before minutes of work.
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


def build_artifact(
    run: Run, *, name: str, precisions: Collection[Precision], max_accuracy_drop: float, embeddings: bool
) -> dict[str, bytes]:
    """Return the files of a run's artifact; on one machine, the same run gives the same bytes.

    Raises:
        DataError: the run has no complete epoch, or its validation images are missing or have changed.
        ExportRefused: the network can't be written as ONNX, or its graph computes other scores.
    """
    config, network, images = run.config, run.load_network(), _open_validation_images(run)
    acc1_in_training = best_epoch(run.read_metrics()).val_acc1
    logger.info("Writing the graph of %s, %d labels", config.architecture, len(config.labels))
    head = find_head(network, config.preprocessing) if embeddings else None
    graph = export_graph(network, config.labels, config.preprocessing, head=head)
    model_config = ModelConfig(
        name=name,
        architecture=config.architecture,
        labels=config.labels,
        preprocessing=config.preprocessing,
        allowed=WAYS[:1],
        opset=OPSET,
        embedding_size=UNSET if head is None else embedding_size_of(network, head),
    )
    yardstick, baseline = _compare_with_torch(run, network, graph, images, model_config, head=head)
    torch_metrics = measure(yardstick.fp32, images.truth, config.labels)
    _check_same_acc1(run, now=torch_metrics.acc1, in_training=acc1_in_training)
    variants = list(_make_variants(run, graph, yardstick, baseline, precisions=precisions, limit=max_accuracy_drop))
    evaluation = Evaluation(
        dataset=yardstick.dataset,
        split="val",
        images=len(images),
        torch=torch_metrics,
        max_accuracy_drop=max_accuracy_drop,
        precisions=tuple(each for variant in variants for each in variant.evaluations),
    )
    graphs = {variant.file: variant.graph for variant in variants if variant.graph is not None}
    return graphs | _describe(run, model_config, yardstick, evaluation)


def _compare_with_torch(
    run: Run, network: nn.Module, graph: bytes, images: LabelledImages, config: ModelConfig, *, head: str | None
) -> tuple[Yardstick, PrecisionEvaluation]:
    """Return the images with torch's probabilities, and the evaluation of the graph in fp32 on the CPU.

    Raises:
        ExportRefused: the graph computes other scores than torch, or others for each number of threads.
    """
    logger.info("Comparing it with torch on %d validation images", len(images))
    engine = OnnxRuntimeEngine(graph, device="cpu")
    with show_progress(len(images), title="fp32") as advance:
        scored = score_images(network, engine, images, config.preprocessing, head=head, advance=advance)
    yardstick = Yardstick(dataset=Path(run.config.data).name, images=images, config=config, fp32=scored.reference)
    return yardstick, measure_baseline(graph, yardstick, scored.scores, engine)


def _describe(run: Run, config: ModelConfig, yardstick: Yardstick, evaluation: Evaluation) -> dict[str, bytes]:
    """Return the artifact's files other than graphs."""
    config = replace(config, allowed=evaluation.allowed())
    golden = make_golden_set(yardstick.images, yardstick.fp32, tolerances=tolerances(evaluation.precisions))
    return {
        CONFIG: to_json(config),
        EVALUATION: to_json(evaluation),
        GOLDEN: golden.to_bytes(),
        CARD: write_card(config, evaluation, run.config).encode(),
    }


def _make_variants(
    run: Run,
    graph: bytes,
    yardstick: Yardstick,
    baseline: PrecisionEvaluation,
    *,
    precisions: Collection[Precision],
    limit: float,
) -> Iterator[Variant]:
    logger.info("Measuring %s on the same images", ", ".join(precisions))
    yield measure_fp32_graph(graph, yardstick, baseline, precisions=precisions, limit=limit)
    if "fp16" in precisions:
        yield make_fp16(graph, yardstick, limit=limit)
    if "int8" in precisions:
        yield make_int8(graph, yardstick, limit=limit, calibration_images=lambda: calibration_images(run))


def _open_validation_images(run: Run) -> LabelledImages:
    samples = run.validation_files()
    if not samples:
        raise DataError(f"the run {run.path} lists no validation images: train again")
    if missing := [path for path, _ in samples if not path.is_file()]:
        raise DataError(
            f"{len(missing):,} of the {len(samples):,} validation images of the run {run.path} are missing, the first "
            f"is {missing[0]}: restore the data set, or say with --data where it is now"
        )
    return LabelledImages(samples, run.config.preprocessing)


def _check_same_acc1(run: Run, *, now: float, in_training: float) -> None:
    """Check that acc1 on the validation images is still that of training; if not, the images have changed."""
    if abs(now - in_training) > MAX_ACC1_DIFFERENCE:
        raise DataError(
            f"acc1 on the validation images in {run.data} is {now:.2%}, but training measured "
            f"{in_training:.2%}, so the images have changed: restore the data set, or train again"
        )
