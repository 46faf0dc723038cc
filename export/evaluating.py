"""`tandem evaluate`: measures a model in the ways that the exporting machine couldn't, and adds a version with them.

It runs on machines that serve models, so nothing here imports torch or onnx.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN
from classifier.engines.selection import describe_refused, describe_way, lack_of
from classifier.errors import DamagedArtifact, DataError, EngineError
from classifier.golden import GoldenSet
from classifier.types import from_json, to_json
from classifier.wording import name_some
from export.card import replace_precisions
from export.entry import check_writable, self_test_files
from export.images import LabelledImages
from export.measuring.evaluation import Evaluation
from export.measuring.precisions import Yardstick, judge, open_way, run_engine, tolerances
from registry.oci.references import Reference
from training.data.folders import relabel
from training.data.scanning import scan_classes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier.engines import Engine
    from classifier.types import AllowedPrecision, ModelConfig
    from export.measuring.evaluation import Measurement, PrecisionEvaluation
    from registry import Added, Artifact, LocalRegistry

logger = logging.getLogger(__name__)


def evaluate_model(
    artifact: Artifact, folder: Path, *, registry: LocalRegistry, max_accuracy_drop: float | None = None
) -> Added:
    """Measure the unmeasured ways of running a model; return the version with the results, new if they are new.

    Ways that this machine can't run stay unmeasured, which the log says; if nothing is measured, the version is the
    model's own. The graphs stay unchanged. The new version has another evaluation, allowed precisions, tolerances and
    model card.

    Args:
        artifact: the model.
        folder: has one folder of images for each of the model's labels.
        registry: gets the new version.
        max_accuracy_drop: the largest allowed loss of acc1 against fp32; None keeps the model's limit.

    Raises:
        DataError: the folder's classes are not the model's labels, or an image can't be read.
        DamagedArtifact: a file of the model is missing or malformed.
        RegistryUnwritable: the registry can't be written.
    """
    check_writable(registry)
    config, before = artifact.config, _read_evaluation(artifact)
    images = open_images(folder, config)
    limit = before.max_accuracy_drop if max_accuracy_drop is None else max_accuracy_drop
    measured: dict[AllowedPrecision, Measurement] = {}
    if engines := _open_unmeasured(artifact, before):
        measured = _measure(artifact, before, engines, images, dataset=folder.resolve().name)
    precisions = tuple(_judge_again(each, measured, artifact, limit=limit) for each in before.precisions)
    after = replace(before, max_accuracy_drop=limit, precisions=precisions)
    golden = GoldenSet.from_bytes(artifact.read(GOLDEN))
    files = {
        **{file: artifact.read(file) for file in artifact.files},
        CONFIG: to_json(replace(config, allowed=after.allowed())),
        EVALUATION: to_json(after),
        GOLDEN: replace(golden, tolerances=tolerances(precisions)).to_bytes(),
        CARD: replace_precisions(artifact.read(CARD).decode(), after).encode(),
    }
    name = Reference.parse(artifact.name).name  # without the registry host: the new version exists only here
    self_test_files(name, files)
    return registry.add(name, files)


def open_images(folder: Path, config: ModelConfig) -> LabelledImages:
    """Return the images in the class folders of `folder`.

    Raises:
        DataError: the class folders are not the model's labels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a folder with one folder of images for each label")
    classes = relabel(scan_classes(folder), config.labels)
    labels = set(config.labels)
    differences = [
        f"{verb} {name_some(sorted(names))}"
        for verb, names in (("lacks", labels - classes.keys()), ("has", classes.keys() - labels))
        if names
    ]
    if differences:
        raise DataError(
            f"the folders in {folder} are not the labels of model '{config.name}': it {' and '.join(differences)}; "
            "give a folder with one folder of images for each label"
        )
    samples = [(file, index) for index, label in enumerate(config.labels) for file in classes[label]]
    return LabelledImages(samples, config.preprocessing)


def _read_evaluation(artifact: Artifact) -> Evaluation:
    try:
        return from_json(artifact.read(EVALUATION), Evaluation)
    except ValueError as error:
        raise DamagedArtifact(
            f"{EVALUATION} of model '{artifact.reference}' can't be read ({error}); export it again"
        ) from error


def _open_unmeasured(artifact: Artifact, evaluation: Evaluation) -> dict[AllowedPrecision, Engine]:
    """Return engines for the unmeasured ways that this machine can run; log why it can't run the others."""
    engines, refused = {}, {}
    for way in (each.way() for each in evaluation.precisions if each.measurement is None):
        if way.graph not in artifact.files:
            continue
        try:
            if (lack := lack_of(way)) is None:
                engines[way] = open_way(way, artifact.config, artifact.read(way.graph))
                continue
        except EngineError as error:
            lack = f"needs another machine ({error})"
        refused[way] = lack
    if refused:
        logger.warning("Not measured here: %s", "; ".join(describe_refused(refused)))
    return engines


def _measure(
    artifact: Artifact,
    evaluation: Evaluation,
    engines: Mapping[AllowedPrecision, Engine],
    images: LabelledImages,
    *,
    dataset: str,
) -> dict[AllowedPrecision, Measurement]:
    logger.info("Measuring %s on %d images", ", ".join(map(describe_way, engines)), len(images))
    baseline = evaluation.precisions[0].way()
    engine = open_way(baseline, artifact.config, artifact.read(baseline.graph))
    fp32 = run_engine(engine, images, title=describe_way(baseline))
    yardstick = Yardstick(dataset=dataset, images=images, config=artifact.config, fp32=fp32)
    measured = {}
    for way, engine in engines.items():
        try:
            measured[way] = yardstick.measure(way, engine, artifact.read(way.graph))
        except EngineError as error:
            logger.warning("%s stays unmeasured: %s", describe_way(way), error)
    return measured


def _judge_again(
    each: PrecisionEvaluation,
    measured: Mapping[AllowedPrecision, Measurement],
    artifact: Artifact,
    *,
    limit: float,
) -> PrecisionEvaluation:
    way = each.way()
    measurement = measured.get(way, each.measurement)
    if measurement is None:  # keep the reason, such as a failure on the exporting machine
        return each
    again = judge(way, measurement, limit=limit, note=each.note)
    if again.allowed and way.graph not in artifact.files:
        return replace(again, allowed=False, reason=f"the model has no {way.graph}: export it again with this limit")
    return again
