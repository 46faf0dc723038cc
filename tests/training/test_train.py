"""`tandem train` as users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from classifier.images import decode_image, read_image
from tests.training.commands import ONE_THREAD, QUICK, command, equal_weights, stop_after_an_epoch
from training.data.tensors import normalise
from training.files import BEST, CHECKPOINT, CURVES, LABELS, METRICS, RECORD, VALIDATION
from training.metrics import EpochMetrics, best_epoch
from training.network import SmallCNN
from training.run import Run

if TYPE_CHECKING:
    from tests.training.conftest import Train


def history_of(run: Run) -> list[EpochMetrics]:
    return [EpochMetrics(**json.loads(line)) for line in (run.path / METRICS).read_text().splitlines()]


def measured(run: Run) -> list[dict[str, float]]:
    """Return the metrics without times."""
    times = ("images_per_s", "elapsed_s")
    return [{name: value for name, value in asdict(m).items() if name not in times} for m in history_of(run)]


def measure(run: Run, files: list[tuple[Path, int]]) -> tuple[float, float]:
    """Return loss and acc1 of the best network, with images decoded as in production."""
    pixels = [torch.from_numpy(decode_image(read_image(path), run.config.preprocessing).pixels) for path, _ in files]
    labels = torch.tensor([label for _, label in files])
    with torch.inference_mode():
        logits = run.load_network()(normalise(torch.stack(pixels), run.config.preprocessing))
    loss = functional.cross_entropy(logits, labels, label_smoothing=run.config.label_smoothing).item()
    return loss, (logits.argmax(1) == labels).sum().item() / len(files)


def test_digits_are_learned(digits_run: Path, test_folder: Path) -> None:
    """`tandem train digits` classifies at least 98.5 % of the test images correctly."""
    run = Run.open(digits_run)
    files = [(path, int(path.parent.name)) for path in sorted(test_folder.rglob("*.png"))]
    assert len(files) == 359
    assert measure(run, files)[1] >= 0.985
    assert run.config.architecture == "small_cnn"
    assert run.config.preprocessing.crop_size == 8


def test_run_folder_is_complete(undisturbed: Run, few_digits: Path) -> None:
    """A run folder holds the config, versions, labels, metrics, curves, checkpoint, best weights and file list."""
    path = undisturbed.path
    names = {RECORD, LABELS, METRICS, CURVES, CHECKPOINT, BEST, VALIDATION}
    assert {entry.name for entry in path.iterdir()} == names
    assert json.loads((path / LABELS).read_text()) == ["0", "1", "2", "3"]
    assert [metrics.epoch for metrics in history_of(undisturbed)] == list(range(1, 13))
    assert undisturbed.config.seed == 0
    assert undisturbed.config.data == str(few_digits)
    assert undisturbed.versions["torch"] == torch.__version__
    with Image.open(path / CURVES) as curves:
        assert curves.format == "PNG"


def test_learning_rate_follows_the_whole_run(undisturbed: Run) -> None:
    """It warms up once, and falls to almost 0 at the last step of the last epoch."""
    rates = [metrics.lr for metrics in history_of(undisturbed)]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0.9 * undisturbed.config.lr < max(rates) <= undisturbed.config.lr
    assert rates[-1] < 0.01 * undisturbed.config.lr


def test_best_weights_are_plain_data(undisturbed: Run) -> None:
    """The best weights are a state dict that torch loads with `weights_only`."""
    state = torch.load(undisturbed.path / BEST, weights_only=True)
    assert {type(value) for value in state.values()} == {torch.Tensor}


def test_reported_accuracy_is_that_of_production(undisturbed: Run) -> None:
    """best.pt gives the reported loss and acc1 on the validation files, decoded as in production."""
    best = best_epoch(history_of(undisturbed))
    files = undisturbed.validation_files()
    assert len(files) == 16
    assert measure(undisturbed, files) == (pytest.approx(best.val_loss, rel=1e-5), best.val_acc1)


def test_same_seed_same_weights(undisturbed: Run, few_digits: Path, tmp_path: Path) -> None:
    """On a CPU, a second run gives bit-equal weights, even with images loaded by worker processes."""
    args = command(few_digits, "--run", tmp_path / "again", "--workers", "2", *QUICK)
    subprocess.run(args, env=os.environ | ONE_THREAD, check=True)
    again = Run.open(tmp_path / "again")
    assert equal_weights(again, undisturbed)
    assert measured(again) == measured(undisturbed)


def test_another_seed_other_weights(undisturbed: Run, few_digits: Path, train: Train, tmp_path: Path) -> None:
    """The seed decides the weights."""
    assert train(few_digits, "--run", tmp_path / "run", "--seed", "1", *QUICK).exit_code == 0
    assert not equal_weights(Run.open(tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_resumed_run_equals_an_uninterrupted_one(
    undisturbed: Run, few_digits: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    """After Ctrl-C or a kill, --resume ends with the weights and metrics of an uninterrupted run."""
    path = tmp_path / "run"
    stopped = stop_after_an_epoch(command(few_digits, "--run", path, *QUICK), path, signum)
    if signum is signal.SIGINT:
        assert stopped.returncode == 130
        assert "Traceback" not in stopped.stderr
        assert f"tandem train {few_digits} --run {path} --resume" in stopped.stderr
        assert (path / CURVES).exists()
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.history) < 12
    subprocess.run(command(few_digits, "--run", path, "--resume"), env=os.environ | ONE_THREAD, check=True)
    assert equal_weights(Run.open(path), undisturbed)
    assert measured(Run.open(path)) == measured(undisturbed)
    assert not [entry for entry in path.iterdir() if entry.name.startswith(".")]


def test_resume_restores_files_after_a_kill(undisturbed: Run, few_digits: Path, train: Train, tmp_path: Path) -> None:
    """A kill between writing the checkpoint and the derived files loses nothing: --resume writes them again."""
    run = Run.open(shutil.copytree(undisturbed.path, tmp_path / "run"))
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    best = best_epoch(checkpoint.history)
    last_is_best = [*checkpoint.history[:-1], EpochMetrics(**asdict(best) | {"epoch": 12, "val_acc1": 2.0})]
    object.__setattr__(checkpoint, "history", tuple(last_is_best))
    run.save_checkpoint(checkpoint)
    (run.path / BEST).unlink()
    (run.path / METRICS).unlink()
    assert train(few_digits, "--run", run.path, "--resume").exit_code == 0
    assert torch.equal(run.load_network().state_dict()["head.bias"], checkpoint.network["head.bias"])
    assert history_of(run) == last_is_best


def test_finished_run_stays_unchanged(undisturbed: Run, few_digits: Path, train: Train, tmp_path: Path) -> None:
    """Resuming a finished run prints the result again, and trains no further."""
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    result = train(few_digits, "--run", path, "--resume")
    assert result.exit_code == 0
    assert f"tandem export {path} --name few-digits" in result.stdout
    assert history_of(Run.open(path)) == history_of(undisturbed)


def test_the_same_options_may_be_repeated(train: Train, few_digits: Path, tmp_path: Path) -> None:
    """--resume accepts the command line that started the run, even with paths spelled differently."""
    torch.save(SmallCNN(4).state_dict(), "start.pt")
    shutil.copytree(few_digits, "few")
    first = train("few", "--run", "run", "--weights", "start.pt", "--device", "auto", *QUICK)
    assert first.exit_code == 0
    again = ("--weights", "../cwd/start.pt", "--device", "auto", *QUICK, "--resume")
    assert train("./few/../few", "--run", "run", *again).exit_code == 0


def test_early_stop(few_digits: Path, train: Train, tmp_path: Path) -> None:
    """Training ends after --patience epochs without a better one."""
    result = train(few_digits, "--run", tmp_path / "run", "--epochs", "40", "--batch-size", "16", "--patience", "2")
    assert result.exit_code == 0
    run = Run.open(tmp_path / "run")
    history = history_of(run)
    best = best_epoch(history)
    assert len(history) == best.epoch + 2 < 40
    # The best epoch is kept, not the last.
    assert measure(run, run.validation_files()) == (pytest.approx(best.val_loss, rel=1e-5), best.val_acc1)
    assert history[-1].val_loss != pytest.approx(best.val_loss, rel=1e-5)


def test_val_fraction(few_digits: Path, train: Train, tmp_path: Path) -> None:
    """A single folder of classes is split; the run lists its validation images."""
    classes = few_digits / "train"
    assert train(classes, "--run", tmp_path / "run", "--val-fraction", "0.25", *QUICK).exit_code == 0
    run = Run.open(tmp_path / "run")
    files = run.validation_files()
    assert [label for _, label in files] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert all(path.parent == classes / str(label) and path.exists() for path, label in files)
    assert measure(run, files)[1] == best_epoch(history_of(run)).val_acc1


def test_train_folder_alone_is_split(few_digits: Path, my_digits: Path, train: Train, tmp_path: Path) -> None:
    """A data set with train/ but no val/ is split too, and not mistaken for a class named `train`."""
    shutil.rmtree(my_digits / "val")
    args = ("--val-fraction", "0.25", "--epochs", "1")
    assert train(my_digits, "--run", tmp_path / "run", *args).exit_code == 0
    run = Run.open(tmp_path / "run")
    assert run.config.labels == ("0", "1", "2", "3")
    assert {path.parent.parent for path, _ in run.validation_files()} == {my_digits / "train"}


def test_next_free_run_folder(few_digits: Path, train: Train) -> None:
    """Without --run, each training gets a folder of its own."""
    for number in (1, 2):
        assert f"runs/few-digits-{number}" in train(few_digits, "--epochs", "1").stdout
        assert Run.open(Path(f"runs/few-digits-{number}")).load_checkpoint() is not None


def test_torchvision_network_from_a_file_of_weights(few_digits: Path, train: Train, tmp_path: Path) -> None:
    """A torchvision network trains, and its weights start a run with other classes, whose head is new."""
    arch = ("--arch", "mobilenet_v3_small", "--image-size", "32", "--epochs", "1", "--batch-size", "16")
    assert train(few_digits, "--run", tmp_path / "first", *arch).exit_code == 0
    three = shutil.copytree(few_digits, tmp_path / "three")
    for split in ("train", "val"):
        shutil.rmtree(three / split / "3")
    weights = ("--weights", tmp_path / "first" / BEST)
    assert train(three, "--run", tmp_path / "second", *arch, *weights).exit_code == 0
    logits = Run.open(tmp_path / "second").load_network()(torch.zeros(1, 3, 32, 32))
    assert logits.shape == (1, 3)


def test_mixed_precision(few_digits: Path, train: Train, tmp_path: Path) -> None:
    """--amp trains in bf16 if the CPU has instructions for it, and is refused if it would be slower."""
    result = train(few_digits, "--run", tmp_path / "run", "--amp", *QUICK)
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        assert result.exit_code == 0
        assert Run.open(tmp_path / "run").config.precision == "bf16"
        assert best_epoch(history_of(Run.open(tmp_path / "run"))).val_acc1 > 0.5
    else:
        assert result.exit_code == 1
        assert "leave out --amp" in result.stderr


def test_folder_called_digits(few_digits: Path, train: Train) -> None:
    """If a folder named `digits` exists, it is used instead of the built-in digits."""
    shutil.copytree(few_digits, "digits")
    assert train("digits", "--epochs", "1").exit_code == 0
    assert Run.open(Path("runs/digits-1")).config.labels == ("0", "1", "2", "3")


def test_large_images(few_digits: Path, tmp_path: Path) -> None:
    """Photographs get resnet18, random crops and mirroring; validation crops the centre of the resized image."""
    for file in few_digits.rglob("*.png"):
        target = tmp_path / "photos" / file.relative_to(few_digits).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((150, 100)).save(target)
    args = command(tmp_path / "photos", "--run", tmp_path / "run", "--epochs", "1", "--workers", "1")
    subprocess.run(args, env=os.environ | ONE_THREAD, check=True)
    config = Run.open(tmp_path / "run").config
    assert (config.architecture, config.flip) == ("resnet18", True)
    assert (config.preprocessing.crop_size, config.preprocessing.resize_size) == (96, 110)


def test_scaled_decode_applies_to_validation(few_digits: Path, train: Train, tmp_path: Path) -> None:
    """With --decode scaled, validation decodes as production will, so its accuracy is that of production."""
    for file in sorted(few_digits.rglob("*.png")):
        target = (tmp_path / "large" / file.relative_to(few_digits)).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).resize((97, 97)).save(target, quality=60)
    options = (*QUICK, "--image-size", "8", "--decode", "scaled")
    assert train(tmp_path / "large", "--run", tmp_path / "run", *options).exit_code == 0
    run = Run.open(tmp_path / "run")
    assert run.config.preprocessing.decode == "scaled"
    best = best_epoch(history_of(run))
    files = run.validation_files()
    assert measure(run, files) == (pytest.approx(best.val_loss, rel=1e-5), best.val_acc1)
    exact = replace(run.config.preprocessing, decode="exact")
    pixels = [
        [decode_image(read_image(path), how).pixels for path, _ in files] for how in (run.config.preprocessing, exact)
    ]
    assert not np.array_equal(*pixels)
    refused = train(tmp_path / "large", "--run", tmp_path / "run", "--resume", "--decode", "exact")
    assert refused.exit_code == 1
    assert "--decode was scaled, not exact" in refused.stderr
