"""A training run → an artifact in the registry, where nothing enters that was not measured and self-tested."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN, MODEL
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import DataError, InvalidReference, RegistryUnwritable
from classifier.types import AllowedPrecision, ModelConfig, from_json, to_json
from export.card import write_card
from export.evaluation import evaluate
from export.golden import make_golden_set
from export.graph import OPSET, export_graph
from export.scoring import score_images
from registry import Added, LocalRegistry, Reference, open_model
from registry.references import check_alias
from training.metrics import EpochMetrics, best_epoch
from training.progress import progress_bar
from training.run import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from training.run import Run

logger = logging.getLogger(__name__)

MAX_ACC1_DIFFERENCE = 0.005
"""By how much acc1 may differ from the one in training, where a GPU rounded otherwise. On a CPU it is the same."""


def export_run(run: Run, *, name: str, registry: LocalRegistry, aliases: Sequence[str] = ()) -> Added:
    """Return the artifact of a run's best network, now the next version of `name` in the registry.

    A run whose artifact the registry holds already makes no new version. In both cases `aliases` are put on it.

    Raises:
        InvalidReference: `name` can't be a new model's, or an alias no alias.
        RegistryUnwritable: the registry can't be written.
        DataError: the run has no complete epoch, or its validation images are gone or others.
        ExportRefused: the network can't be written as ONNX, or its graph gives other scores.
        SelfTestFailed: the artifact does not give its own golden scores.
    """
    # What can be known before minutes of work.
    check_name(name)
    for alias in aliases:
        Reference(name=name, tag=check_alias(alias))
    check_writable(registry)
    files = build_artifact(run, name=name)
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


def check_writable(registry: LocalRegistry) -> None:
    """Check, as far as permissions tell, that the registry can be written.

    Raises:
        RegistryUnwritable: it can't.
    """
    folder = next(path for path in (registry.root, *registry.root.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fact = "can't be written" if folder.is_dir() else "is not a folder"
        raise RegistryUnwritable(
            f"the registry {registry.root} can't take a model, because {folder} {fact}: set TANDEM_HOME to another"
        )


def build_artifact(run: Run, *, name: str) -> dict[str, bytes]:
    """Return the files of a run's artifact: the same bytes for the same run.

    Raises:
        DataError: the run has no complete epoch, or its validation images are gone or others.
        ExportRefused: the network can't be written as ONNX, or its graph gives other scores.
    """
    config, network, samples = run.config, run.load_network(), run.validation_files()
    acc1_in_training = _read_acc1(run)
    _check_all_there(run, samples)
    logger.info("Writing the graph of %s, %d labels", config.architecture, len(config.labels))
    graph = export_graph(network, config.labels, config.preprocessing)

    logger.info("Comparing it with torch, and evaluating both, on %d validation images", len(samples))
    engine = OnnxRuntimeEngine(graph, device="cpu")
    with progress_bar("evaluating", len(samples)) as advance:
        scored = score_images(network, engine, samples, config.preprocessing, advance=advance)
    evaluation = evaluate(scored, config.labels, engine=engine, dataset=Path(config.data).name)
    _check_same_images(run, evaluation.torch.acc1, acc1_in_training)
    (measured,) = evaluation.precisions

    model_config = ModelConfig(
        name=name,
        architecture=config.architecture,
        labels=config.labels,
        preprocessing=config.preprocessing,
        allowed=(
            AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL),
            AllowedPrecision(precision="fp32", engine="onnxruntime", device="cuda", graph=MODEL),
        ),
        opset=OPSET,
    )
    golden = make_golden_set(scored, precision=measured.precision, max_difference=measured.max_difference)
    return {
        MODEL: graph,
        CONFIG: to_json(model_config),
        EVALUATION: to_json(evaluation),
        GOLDEN: golden.to_bytes(),
        CARD: write_card(model_config, evaluation, config).encode(),
    }


def self_test_files(name: str, files: Mapping[str, bytes]) -> None:
    """Check that the files pass as a model: stored, resolved, verified, opened and self-tested as any other is.

    Raises:
        ArtifactError: they don't.
    """
    with tempfile.TemporaryDirectory() as folder:
        staging = LocalRegistry(Path(folder))
        staging.add(name, files)
        open_model(name, registry=staging, device="cpu")


def _check_all_there(run: Run, samples: Sequence[tuple[Path, int]]) -> None:
    if not samples:
        raise DataError(f"the run {run.path} lists no validation images: train again")
    if missing := [path for path, _ in samples if not path.is_file()]:
        raise DataError(
            f"{len(missing):,} of the {len(samples):,} images that validated the run {run.path} are gone, the first "
            f"{missing[0]}: restore the data set, or train again"
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
