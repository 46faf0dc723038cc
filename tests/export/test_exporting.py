from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn import metrics as sklearn_metrics

from classifier.artifact import CARD, CONFIG, EVALUATION, FILES, GOLDEN, MODEL, MODEL_FP16, MODEL_INT8
from classifier.errors import EngineUnavailable
from classifier.golden import GoldenSet
from classifier.images import decode_image
from classifier.model import Model
from classifier.selftest import self_test
from classifier.types import ModelConfig, from_json
from export.images import LabelledImages
from export.measuring.evaluation import Evaluation
from registry import Artifact, LocalRegistry
from tandem import main
from tests.conftest import ROOT
from training.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run_copy(digits_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, with its own copy of the data set."""
    copy = tmp_path / "run"
    shutil.copytree(digits_run, copy)
    record = json.loads((copy / "run.json").read_bytes())
    shutil.copytree(record["config"]["data"], tmp_path / "digits")
    record["config"]["data"] = str(tmp_path / "digits")
    (copy / "run.json").write_text(json.dumps(record))
    return copy


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `tandem export` in this process, where torch is already imported."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return lambda *args: CliRunner().invoke(main, ["export", *map(str, args)])


def test_an_artifact_has_the_specified_files_and_opens(artifact: Artifact) -> None:
    assert tuple(artifact.files) == (*FILES, MODEL_FP16, MODEL_INT8)
    model = Model.open(artifact, engine="onnxruntime", device="cpu", precision="fp32")
    report = self_test(model)
    assert report.images == 16
    assert report.max_difference <= 1e-4
    assert model.config.architecture == "small_cnn"
    assert model.config.labels == tuple("0123456789")


def test_the_reported_numbers_are_those_of_the_validation_images(artifact: Artifact, digits_run: Path) -> None:
    """scikit-learn and a bare onnxruntime session compute the same from the artifact alone."""
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    config = from_json(artifact.read(CONFIG), ModelConfig)
    files = Run.open(digits_run).validation_files()
    images = np.stack([decode_image(path.read_bytes(), config.preprocessing).pixels for path, _ in files])
    session = onnxruntime.InferenceSession(artifact.read(MODEL), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"images": images})
    exact = scores.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only up to rounding
    truth = [config.labels.index(path.parent.name) for path, _ in files]

    measured = evaluation.fp32
    assert (evaluation.dataset, evaluation.images, measured.images) == ("digits", len(files), len(files))
    assert measured.metrics.acc1 == pytest.approx(sklearn_metrics.accuracy_score(truth, scores.argmax(1)), abs=1e-6)
    assert measured.metrics.loss == pytest.approx(sklearn_metrics.log_loss(truth, exact), abs=1e-5)
    assert measured.agreement == 1.0
    assert measured.max_difference < 1e-5
    assert evaluation.torch.acc1 == measured.metrics.acc1


def test_golden_images_are_validation_images_as_encoded_on_disk(artifact: Artifact, digits_run: Path) -> None:
    golden = GoldenSet.from_bytes(artifact.read(GOLDEN))
    on_disk = {path.read_bytes() for path, _ in Run.open(digits_run).validation_files()}
    assert set(golden.images) <= on_disk


def test_every_measured_precision_is_as_accurate_as_reported(artifact: Artifact, digits_run: Path) -> None:
    """Each is opened as in production, on the images that it was measured on."""
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    config = artifact.config
    assert config.allowed == evaluation.allowed()
    images = LabelledImages(Run.open(digits_run).validation_files(), config.preprocessing)
    measured = [each for each in evaluation.precisions if each.measurement is not None]
    assert {each.precision for each in measured} >= {"fp32", "int8"}
    for each in measured:
        options = {"engine": each.engine, "device": each.device, "precision": each.precision}
        if not each.allowed:  # as bf16 on a CPU with AMX, if it loses too much accuracy there
            assert each.reason
            with pytest.raises(EngineUnavailable, match="does not allow"):
                Model.open(artifact, **options)
            continue
        model = Model.open(artifact, **options)
        self_test(model)
        scores = np.concatenate([model.scores(pixels) for _, pixels in images.batches()])
        acc1 = sklearn_metrics.accuracy_score(images.truth, scores.argmax(axis=1))
        assert each.measurement.metrics.acc1 == pytest.approx(acc1, abs=1e-6)
        assert each.measurement.acc1_drop <= evaluation.max_accuracy_drop
        assert each.measurement.fp32_acc1 == evaluation.torch.acc1
        # Twice the largest difference, so that no image of the split can fail.
        assert model.golden.tolerances[each.precision] >= 2 * each.measurement.max_difference


@pytest.mark.parametrize("file", [MODEL, MODEL_FP16, MODEL_INT8, CONFIG, EVALUATION, CARD])
def test_no_file_contains_a_path_of_this_machine_or_a_date(artifact: Artifact, digits_home: Path, file: str) -> None:
    data = artifact.read(file)
    for place in (ROOT, Path.home(), digits_home, Path(sys.prefix), Path(torch.__file__).parent, "site-packages"):
        assert str(place).encode() not in data
    if not file.endswith(".onnx"):  # a million random bytes contain every short pattern
        assert not re.search(rb"20[2-9]\d-\d\d-\d\d|\d\d:\d\d:\d\d", data)


def test_the_same_run_gives_the_same_digest_and_no_second_version(
    tandem: Callable[..., object], artifact: Artifact, digits_run: Path, tmp_path: Path
) -> None:
    """The digest doesn't depend on process, hash seed, number of threads, folder or registry."""
    env = {"TANDEM_HOME": str(tmp_path / "home"), "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
    first = tandem("export", digits_run, "--name", "digits", env=env, cwd=tmp_path)
    assert first.stdout.splitlines()[0] == f"digits:1  {artifact.digest}"
    assert "acc1" in first.stdout
    assert "Self-testing" in first.stderr

    env["PYTHONHASHSEED"] = "1"
    again = tandem("export", digits_run, "--name", "digits", "--tag", "candidate", env=env)
    assert again.stdout.splitlines()[:2] == [f"unchanged: digits:1  {artifact.digest}", "  aliases candidate"]
    registry = LocalRegistry(tmp_path / "home" / "registry")
    assert [model.reference for model in registry.models()] == ["digits:1"]
    assert registry.resolve("digits:candidate").digest == artifact.digest


def refused(result: Result, home: Path) -> str:
    """Return the error, after checking that it is one sentence and left the registry empty."""
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.stderr.endswith(f"{error}\n")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not (home / "registry" / "index.json").exists()
    return error


def test_a_folder_without_a_run_is_refused(export: Callable[..., Result], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        error = refused(export(path, "--name", "digits"), tmp_path / "home")
        assert str(path) in error


def test_a_run_without_a_complete_epoch_is_refused(
    export: Callable[..., Result], run_copy: Path, tmp_path: Path
) -> None:
    (run_copy / "best.pt").unlink()
    assert "no complete epoch" in refused(export(run_copy, "--name", "digits"), tmp_path / "home")


def test_missing_validation_images_are_counted_and_named(
    export: Callable[..., Result], run_copy: Path, tmp_path: Path
) -> None:
    gone = sorted((tmp_path / "digits" / "val" / "3").iterdir())[:2]
    for file in gone:
        file.unlink()
    error = refused(export(run_copy, "--name", "digits"), tmp_path / "home")
    assert "2 of the 3" in error
    assert str(gone[0]) in error


def test_changed_validation_images_are_refused(export: Callable[..., Result], run_copy: Path, tmp_path: Path) -> None:
    """Otherwise the card would report accuracy on images that the run never validated on."""
    for three, eight in zip(*(sorted((tmp_path / "digits" / "val" / digit).iterdir()) for digit in "38"), strict=False):
        three.write_bytes(eight.read_bytes())
    assert "so the images have changed" in refused(export(run_copy, "--name", "digits"), tmp_path / "home")


def test_missing_metrics_are_refused(export: Callable[..., Result], run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "metrics.jsonl").unlink()
    assert "metrics.jsonl can't be read" in refused(export(run_copy, "--name", "digits"), tmp_path / "home")


@pytest.mark.parametrize(
    "name", ["Digits", "digits:3", "digits@sha256:abc", "a b", "", "../digits", "ghcr.io/acme/digits"]
)
def test_a_bad_name_is_refused_before_any_work(
    export: Callable[..., Result], digits_run: Path, tmp_path: Path, name: str
) -> None:
    result = export(digits_run, "--name", name)
    refused(result, tmp_path / "home")
    assert "Writing the graph" not in result.stderr


@pytest.mark.parametrize("alias", ["7", "a b", "deadbeefdeadbeef"])
def test_a_bad_alias_is_refused_before_any_work(
    export: Callable[..., Result], digits_run: Path, tmp_path: Path, alias: str
) -> None:
    assert alias in refused(export(digits_run, "--name", "digits", "--tag", alias), tmp_path / "home")


def test_an_unwritable_registry_is_refused_before_any_work(
    export: Callable[..., Result], digits_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file")
    error = refused(export(digits_run, "--name", "digits"), tmp_path / "home")
    assert "is not a folder: set TANDEM_HOME to another folder" in error


def test_a_model_with_embeddings_is_described_as_such(
    artifact: Artifact, embedder_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config, card and `tandem models show` mention embeddings only if the model has them."""
    embedder = LocalRegistry(embedder_home / "registry").resolve("embedder:1")
    assert embedder.config.embedding_size == 128
    assert "`embeddings`: float32 [N, 128]" in embedder.read(CARD).decode()
    monkeypatch.setenv("TANDEM_HOME", str(embedder_home))
    shown = CliRunner().invoke(main, ["models", "show", "embedder"])
    assert "embeddings     128 numbers, the input of the last layer" in shown.stdout.splitlines()
    assert not artifact.config.embedding_size
    assert b"embedding" not in artifact.read(CONFIG) + artifact.read(CARD)
    assert b"embeddings" not in artifact.read(MODEL)


def test_only_requested_precisions_are_made(export: Callable[..., Result], digits_run: Path, tmp_path: Path) -> None:
    result = export(digits_run, "--name", "digits", "--precisions", "bf16")
    assert result.exit_code == 0, result.output
    artifact = LocalRegistry(tmp_path / "home" / "registry").resolve("digits")
    assert tuple(artifact.files) == FILES
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    assert {each.precision for each in evaluation.precisions} == {"fp32", "bf16"}


def test_too_few_training_images_leave_int8_out_with_a_reason(
    export: Callable[..., Result], run_copy: Path, tmp_path: Path
) -> None:
    """fp32 needs no training images, and is exported."""
    for folder in (tmp_path / "digits" / "train").iterdir():
        for file in sorted(folder.iterdir())[2:]:
            file.unlink()
    result = export(run_copy, "--name", "digits", "--precisions", "int8")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("int8")]
    assert len(rows) == 2
    for row in rows:
        assert row.endswith("no: not made: int8 needs 64 training images to calibrate on, but there are 20")
    artifact = LocalRegistry(tmp_path / "home" / "registry").resolve("digits")
    assert tuple(artifact.files) == FILES
    assert {allowed.precision for allowed in artifact.config.allowed} == {"fp32"}


@pytest.mark.parametrize("precisions", ["fp8", "int8,fp8", "", "INT8", "auto,int8"])
def test_an_unknown_precision_is_a_usage_error_that_lists_the_known_ones(
    export: Callable[..., Result], digits_run: Path, precisions: str
) -> None:
    result = export(digits_run, "--name", "digits", "--precisions", precisions)
    assert result.exit_code == 2
    assert "unknown precision" in result.stderr
    assert "some of fp32, bf16, fp16, int8, separated by commas" in " ".join(result.stderr.split())


@pytest.mark.parametrize("limit", ["-0.1", "1.1", "half", "nan"])
def test_an_invalid_limit_is_a_usage_error(export: Callable[..., Result], digits_run: Path, limit: str) -> None:
    assert export(digits_run, "--name", "digits", "--max-accuracy-drop", limit).exit_code == 2


def test_a_command_line_without_a_name_is_a_usage_error(export: Callable[..., Result], digits_run: Path) -> None:
    result = export(digits_run)
    assert result.exit_code == 2
    assert "--name" in result.stderr


def test_help_ends_with_an_example() -> None:
    result = CliRunner().invoke(main, ["export", "--help"])
    assert result.exit_code == 0
    assert result.output.endswith(
        "\n  Example:\n    tandem export runs/digits --name digits\n"
        "    tandem export runs/digits --name digits --tag candidate\n"
        "    tandem export runs/digits --name digits --precisions fp32,int8 --max-accuracy-drop 0.01\n"
        "    tandem export runs/digits --name digits-search --embeddings\n"
    )


@pytest.mark.parametrize("precisions", ["fp32", "fp32,fp16,int8"])
@pytest.mark.reported("export-telemetry")
def test_an_export_writes_no_telemetry(
    tandem: Callable[..., object],
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precisions: str,
) -> None:
    """ONNX Runtime writes a database and a device id, if anything imports it before Tandem's switch."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "XDG_CACHE_HOME": "", "TANDEM_HOME": str(tmp_path / "tandem")}
    tandem("export", digits_run, "--name", "digits", "--precisions", precisions, env=env)
    assert not list(home.rglob("*"))


def test_nothing_of_an_export_imports_onnx_runtime_before_it_is_used() -> None:
    """The switch is set when an engine is loaded, so no module may import ONNX Runtime for itself."""
    code = "import export.exporting, export.evaluating, sys; print([m for m in sys.modules if 'onnxruntime' in m])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['classifier.engines.onnxruntime']\n"
