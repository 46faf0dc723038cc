from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN, MODEL_FP16, MODEL_INT8
from classifier.engines.selection import describe_way
from classifier.golden import GoldenSet
from classifier.types import from_json, to_json
from export.card import replace_precisions
from export.measuring.evaluation import Evaluation, PrecisionEvaluation
from export.measuring.precisions import judge, tolerances
from registry import Artifact, LocalRegistry, open_model
from tandem import main

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

OPENVINO = {"fp32 with openvino on cpu", "int8 with openvino on cpu"}

pytest.importorskip("openvino")


def evaluation_of(artifact: Artifact) -> Evaluation:
    return from_json(artifact.read(EVALUATION), Evaluation)


def row(artifact: Artifact, way: str) -> PrecisionEvaluation:
    (found,) = [each for each in evaluation_of(artifact).precisions if describe_way(each.way()) == way]
    return found


def add_without(registry: LocalRegistry, ways: Collection[str], *files: str) -> Artifact:
    """Add digits:1 as if exported by a machine that can't run `ways`, and without `files`."""
    artifact = registry.resolve("digits:1")
    evaluation = evaluation_of(artifact)
    rows = tuple(
        judge(each.way(), None, limit=0.005) if describe_way(each.way()) in ways else each
        for each in evaluation.precisions
    )
    stripped = dataclasses.replace(evaluation, precisions=rows)
    golden = GoldenSet.from_bytes(artifact.read(GOLDEN))
    return registry.add(
        "digits",
        {
            **{file: artifact.read(file) for file in artifact.files if file not in files},
            CONFIG: to_json(dataclasses.replace(artifact.config, allowed=stripped.allowed())),
            EVALUATION: to_json(stripped),
            GOLDEN: dataclasses.replace(golden, tolerances=tolerances(rows)).to_bytes(),
            CARD: replace_precisions(artifact.read(CARD).decode(), stripped).encode(),
        },
    ).artifact


@pytest.fixture
def registry(tandem_home: Path) -> LocalRegistry:
    return LocalRegistry(tandem_home / "registry")


@pytest.fixture
def evaluate(registry: LocalRegistry, test_folder: Path) -> Callable[..., Result]:
    """Return a function that runs `tandem evaluate` in this process, by default on the test images."""

    def run(reference: str, *options: str, folder: Path = test_folder) -> Result:
        return CliRunner().invoke(main, ["evaluate", reference, str(folder), *options])

    return run


def test_a_machine_that_can_run_more_adds_a_version_with_more_evidence(
    registry: LocalRegistry, evaluate: Callable[..., Result]
) -> None:
    before = add_without(registry, OPENVINO)
    assert before.version == 2
    assert not row(before, "int8 with openvino on cpu").allowed
    result = evaluate("digits:2")
    assert result.exit_code == 0, result.output

    after = registry.resolve("digits:3")
    assert result.stdout.splitlines()[0] == f"digits:3  {after.digest}"
    for way in OPENVINO:
        added = row(after, way)
        assert added.allowed
        assert added.measurement is not None
        assert added.measurement.dataset == "test"
        assert added.way() in after.config.allowed
        # Measurements from other machines stay unchanged.
        others = [each for each in evaluation_of(after).precisions if describe_way(each.way()) not in OPENVINO]
        assert others == [each for each in evaluation_of(before).precisions if describe_way(each.way()) not in OPENVINO]
    assert {file: after.files[file].digest for file in after.files if file.endswith(".onnx")} == {
        file: before.files[file].digest for file in before.files if file.endswith(".onnx")
    }
    for way in OPENVINO:
        assert f"{way.split()[0]} | openvino | cpu | -".encode() in before.read(CARD)
        assert f"{way.split()[0]} | openvino | cpu | -".encode() not in after.read(CARD)
    assert open_model("digits:3", registry=registry, engine="openvino", precision="int8").engine.info.name == "openvino"


def test_the_same_evidence_adds_no_version(registry: LocalRegistry, evaluate: Callable[..., Result]) -> None:
    add_without(registry, OPENVINO)
    first = evaluate("digits:2")
    again = evaluate("digits:2")
    assert again.stdout.splitlines()[0] == f"unchanged: {first.stdout.splitlines()[0]}"
    assert [each.version for each in registry.models()] == [1, 2, 3]


def test_a_way_that_failed_at_export_keeps_its_reason(registry: LocalRegistry, evaluate: Callable[..., Result]) -> None:
    """An evaluation on a machine without the hardware must not turn a failed way into an untried one."""
    artifact, reason = registry.resolve("digits:1"), "fp16 with onnxruntime on cuda gives 1 of 256 images other scores"
    evaluation = evaluation_of(artifact)
    rows = tuple(
        dataclasses.replace(each, reason=reason, measurement=None) if each.device == "cuda" else each
        for each in evaluation.precisions
        if each.device != "cuda" or each.precision == "fp16"
    )
    failed = to_json(dataclasses.replace(evaluation, precisions=rows))
    registry.add("digits", {**{file: artifact.read(file) for file in artifact.files}, EVALUATION: failed})
    result = evaluate("digits:2", "--max-accuracy-drop", "0.01")
    assert result.exit_code == 0, result.output
    (row,) = [each for each in evaluation_of(registry.resolve("digits")).precisions if each.device == "cuda"]
    assert (row.allowed, row.reason) == (False, reason)


def test_another_limit_is_judged_by_the_existing_evidence(
    registry: LocalRegistry, evaluate: Callable[..., Result]
) -> None:
    """Changing the limit, and changing it back, needs no new measurement."""
    artifact = registry.resolve("digits:1")
    evaluation = evaluation_of(artifact)

    def lose_a_tenth(each: PrecisionEvaluation) -> PrecisionEvaluation:
        if each.measurement is None or each.precision != "int8":
            return each
        metrics = dataclasses.replace(each.measurement.metrics, acc1=each.measurement.fp32_acc1 - 0.1)
        return dataclasses.replace(each, measurement=dataclasses.replace(each.measurement, metrics=metrics))

    worse = dataclasses.replace(evaluation, precisions=tuple(map(lose_a_tenth, evaluation.precisions)))
    registry.add("digits", {**{file: artifact.read(file) for file in artifact.files}, EVALUATION: to_json(worse)})
    strict = evaluate("digits:2", "--max-accuracy-drop", "0")
    assert strict.exit_code == 0, strict.output
    refused = row(registry.resolve("digits:3"), "int8 with onnxruntime on cpu")
    assert refused.reason == "acc1 is 10.00 points lower, 0 are allowed"
    assert "int8" not in GoldenSet.from_bytes(registry.resolve("digits:3").read(GOLDEN)).tolerances
    assert "int8" not in {way.precision for way in registry.resolve("digits:3").config.allowed}
    assert MODEL_INT8 in registry.resolve("digits:3").files  # the limit can be raised again
    assert evaluate("digits:3", "--max-accuracy-drop", "0.5").exit_code == 0
    assert row(registry.resolve("digits:4"), "int8 with onnxruntime on cpu").allowed


def test_no_limit_allows_a_graph_that_the_model_lacks(registry: LocalRegistry, evaluate: Callable[..., Result]) -> None:
    """The export left the graph out, because int8 did not meet the limit."""
    artifact = registry.resolve("digits:1")
    evaluation = evaluation_of(artifact)
    rows = tuple(
        dataclasses.replace(each, allowed=False, reason="acc1 is 1.00 points lower, 0.5 are allowed")
        if each.graph == MODEL_INT8
        else each
        for each in evaluation.precisions
    )
    without = dataclasses.replace(evaluation, precisions=rows)
    registry.add(
        "digits",
        {
            **{file: artifact.read(file) for file in artifact.files if file != MODEL_INT8},
            CONFIG: to_json(dataclasses.replace(artifact.config, allowed=without.allowed())),
            EVALUATION: to_json(without),
        },
    )
    result = evaluate("digits:2", "--max-accuracy-drop", "0.5")
    assert result.exit_code == 0, result.output
    int8 = row(registry.resolve("digits:3"), "int8 with onnxruntime on cpu")
    assert not int8.allowed
    assert int8.reason == "the model has no model.int8.onnx: export it again with this limit"


def refused(result: Result, registry: LocalRegistry, *, versions: int = 1) -> str:
    """Return the error, after checking that it is one sentence and left the registry unchanged."""
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert len(registry.models()) == versions
    return error


def test_a_model_with_nothing_left_to_measure_here_stays_unchanged(
    registry: LocalRegistry, evaluate: Callable[..., Result]
) -> None:
    """One line says what the machine lacks for the other ways; the measured model is no error."""
    if row(registry.resolve("digits:1"), "fp16 with onnxruntime on cuda").measurement is not None:
        pytest.skip("this machine has CUDA")
    result = evaluate("digits:1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("unchanged: digits:1  ")
    (line,) = [line for line in result.stderr.splitlines() if "Not measured here: " in line]
    assert "fp16 with onnxruntime on cuda need onnxruntime-gpu, which is not installed (" in line
    assert line.count("onnxruntime-gpu") == 1
    assert len(registry.models()) == 1


def test_a_completely_measured_model_stays_unchanged(
    registry: LocalRegistry, evaluate: Callable[..., Result], tandem: Callable[..., object], digits_run: Path
) -> None:
    artifact = registry.resolve("digits:1")
    evaluation = evaluation_of(artifact)
    rows = tuple(each for each in evaluation.precisions if each.measurement is not None)
    measured = dataclasses.replace(evaluation, precisions=rows)
    registry.add(
        "digits",
        {
            **{file: artifact.read(file) for file in artifact.files if file != MODEL_FP16},
            CONFIG: to_json(dataclasses.replace(artifact.config, allowed=measured.allowed())),
            EVALUATION: to_json(measured),
            CARD: replace_precisions(artifact.read(CARD).decode(), measured).encode(),
        },
    )
    result = evaluate("digits:2")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("unchanged: digits:2  ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("missing", "it lacks 7;"),
        ("extra", "it has eleven;"),
        ("both", "it lacks 7 and has eleven;"),
    ],
)
def test_a_folder_with_other_classes_is_refused_with_their_names(
    registry: LocalRegistry,
    evaluate: Callable[..., Result],
    test_folder: Path,
    tmp_path: Path,
    change: str,
    sentence: str,
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(test_folder, folder)
    if change != "missing":
        shutil.copytree(folder / "1", folder / "eleven")
    if change != "extra":
        shutil.rmtree(folder / "7")
    error = refused(evaluate("digits:1", folder=folder), registry)
    assert f"the folders in {folder} are not the labels of model 'digits': {sentence}" in error


def test_a_missing_or_empty_folder_is_refused(
    registry: LocalRegistry, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    assert f"{tmp_path / 'missing'} is not a folder" in refused(
        evaluate("digits:1", folder=tmp_path / "missing"), registry
    )
    (tmp_path / "empty").mkdir()
    assert "has no class folders" in refused(evaluate("digits:1", folder=tmp_path / "empty"), registry)


def test_an_unreadable_image_is_named(
    registry: LocalRegistry, evaluate: Callable[..., Result], test_folder: Path, tmp_path: Path
) -> None:
    add_without(registry, OPENVINO)
    folder = tmp_path / "images"
    shutil.copytree(test_folder, folder)
    bad = min((folder / "3").iterdir())
    bad.write_bytes(b"not an image")
    assert f"{bad} can't be used" in refused(evaluate("digits:2", folder=folder), registry, versions=2)


def test_a_missing_model_is_refused(registry: LocalRegistry, evaluate: Callable[..., Result]) -> None:
    assert "'digit'" in refused(evaluate("digit"), registry)


@pytest.mark.parametrize("limit", ["-0.1", "1.1", "half", "nan"])
def test_an_invalid_limit_is_a_usage_error(evaluate: Callable[..., Result], limit: str) -> None:
    assert evaluate("digits:1", "--max-accuracy-drop", limit).exit_code == 2


def test_it_needs_neither_torch_nor_onnx(registry: LocalRegistry, tandem_home: Path, test_folder: Path) -> None:
    """Models are served, and so measured, on machines that lack both."""
    add_without(registry, OPENVINO)
    absent = ("torch", "torchvision", "onnx", "onnxscript", "sklearn", "matplotlib")
    program = f"import sys; sys.modules.update(dict.fromkeys({absent})); from tandem import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "evaluate", "digits:2", str(test_folder)],
        env={**os.environ, "TANDEM_HOME": str(tandem_home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digits:3  sha256:")


def test_help_ends_with_an_example() -> None:
    result = CliRunner().invoke(main, ["evaluate", "--help"])
    assert result.exit_code == 0
    assert result.output.endswith("  tandem models show digits\n")
