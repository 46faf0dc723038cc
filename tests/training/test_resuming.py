"""Runs whose data set moved, whose end changed, or that leave images out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.training.commands import equal_weights
from training.files import RECORD, SKIPPED, VALIDATION
from training.run import Run

if TYPE_CHECKING:
    from tests.conftest import Tandem
    from tests.training.conftest import Train

ONE = ("--epochs", "1", "--batch-size", "16", "--patience", "12")
TWO = ("--epochs", "2", "--batch-size", "16", "--patience", "12")


@pytest.mark.reported("run-after-data-moved")
def test_data_set_that_moved(train: Train, my_digits: Path, tandem: Tandem, tmp_path: Path) -> None:
    """--resume takes the same images in another folder and remembers it; export takes them by --data."""
    assert train(my_digits, "--run", "run", *ONE).exit_code == 0
    home = {"TANDEM_HOME": str(tmp_path / "home")}
    fp32 = ("--name", "moved", "--precisions", "fp32")
    tandem("export", Path("run").resolve(), *fp32, env=home)
    first = tandem("models", "show", "moved", "--json", env=home).stdout
    moved = my_digits.rename(tmp_path / "elsewhere")
    refused = tandem("export", Path("run").resolve(), *fp32, env=home, check=False)
    assert refused.returncode == 1
    assert "say with --data where it is now" in refused.stderr
    tandem("export", Path("run").resolve(), *fp32, "--data", moved, env=home)
    assert train(moved, "--run", "run", "--resume", "--epochs", "1").exit_code == 0
    assert Run.open(Path("run")).data == moved
    tandem("export", Path("run").resolve(), *fp32, env=home)
    # The same artifact: it names the data set as it was called when the run was trained.
    assert json.loads(tandem("models", "show", "moved", "--json", env=home).stdout) == json.loads(first)
    shutil.copytree(moved, my_digits)
    assert train(my_digits, "--run", "run", "--resume").exit_code == 0
    assert "moved_to" not in json.loads(Path("run", RECORD).read_bytes())


def test_data_option_with_other_images(train: Train, my_digits: Path, tandem: Tandem, tmp_path: Path) -> None:
    assert train(my_digits, "--run", "run", *ONE).exit_code == 0
    other = shutil.copytree(my_digits, tmp_path / "other")
    next((other / "train" / "0").iterdir()).unlink()
    refused = tandem("export", Path("run").resolve(), "--name", "x", "--data", other, check=False)
    assert refused.returncode == 1
    assert f"the images in {other} are not those that" in refused.stderr


def test_longer_run(train: Train, few_digits: Path) -> None:
    """The epochs that are added follow the learning-rate curve of the new length, and are remembered."""
    assert train(few_digits, "--run", "run", *TWO).exit_code == 0
    assert train(few_digits, "--run", "run", "--resume", "--epochs", "4").exit_code == 0
    assert train(few_digits, "--run", "four", *TWO, "--epochs", "4").exit_code == 0
    longer, four = Run.open(Path("run")), Run.open(Path("four"))
    assert longer.config.epochs == 4
    rates = [[metrics.lr for metrics in run.read_metrics()] for run in (longer, four)]
    assert len(rates[0]) == 4
    assert rates[0][2:] == rates[1][2:]
    assert rates[0][2] > rates[0][1]  # it rises again, as the page says
    assert not equal_weights(longer, four)


def test_shorter_run(train: Train, few_digits: Path) -> None:
    """A run can end at the epoch that is complete; resumed again, it stays so."""
    assert train(few_digits, "--run", "run", *TWO).exit_code == 0
    assert train(few_digits, "--run", "run", "--resume", "--epochs", "3").exit_code == 0
    assert train(few_digits, "--run", "run", "--resume").exit_code == 0
    assert len(Run.open(Path("run")).read_metrics()) == 3


def test_more_patience(train: Train, few_digits: Path) -> None:
    """A run that stopped early goes on with a larger --patience."""
    assert train(few_digits, "--run", "run", "--epochs", "40", "--batch-size", "16", "--patience", "1").exit_code == 0
    stopped = len(Run.open(Path("run")).read_metrics())
    assert stopped < 40
    assert train(few_digits, "--run", "run", "--resume", "--patience", "3").exit_code == 0
    assert len(Run.open(Path("run")).read_metrics()) > stopped


@pytest.mark.reported("train-class-without-val")
def test_class_without_validation_images(
    train: Train, my_digits: Path, tandem: Tandem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is trained and exported; the log says that it is not measured, whether its folder is missing or empty."""
    shutil.rmtree(my_digits / "val" / "2")
    for file in (my_digits / "val" / "3").iterdir():
        file.unlink()
    assert train(my_digits, "--run", "run", *ONE).exit_code == 0
    assert f"val/ in {my_digits} has no images of 2, 3: trained, but not part of any accuracy" in caplog.text
    run = Run.open(Path("run"))
    assert run.config.labels == ("0", "1", "2", "3")
    assert {label for _, label in run.validation_files()} == {0, 1}
    env = {"TANDEM_HOME": str(tmp_path / "home")}
    tandem("export", run.path.resolve(), "--name", "rare", env=env)
    assert json.loads(tandem("models", "show", "rare", "--json", env=env).stdout)["config"]["labels"] == [*"0123"]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.reported("train-corrupt-images")
def test_unreadable_images_are_left_out(
    train: Train, my_digits: Path, tandem: Tandem, tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --skip-unreadable the run equals one without these images, can be resumed and exported, and lists them."""
    if large:
        from training.data import tensors

        monkeypatch.setattr(tensors, "MAX_BYTES_IN_MEMORY", 0)
    whole = shutil.copytree(my_digits, tmp_path / "whole")
    bad = ["train/0/" + min((my_digits / "train" / "0").iterdir()).name]
    bad.append("val/3/" + max((my_digits / "val" / "3").iterdir()).name)
    for name in bad:
        (my_digits / name).write_bytes(b"no image")
        (whole / name).unlink()
    assert train(my_digits, "--run", "run", "--skip-unreadable", *ONE).exit_code == 0
    assert train(whole, "--run", "whole-run", *ONE).exit_code == 0
    run = Run.open(Path("run"))
    assert equal_weights(run, Run.open(Path("whole-run")))
    assert Path("run", SKIPPED).read_text().splitlines() == bad
    assert Path("run", VALIDATION).read_bytes() == Path("whole-run", VALIDATION).read_bytes()
    for repeated in ((), ("--skip-unreadable",)):
        assert train(my_digits, "--run", "run", "--resume", *repeated).exit_code == 0
    tandem("export", run.path.resolve(), "--name", "most", env={"TANDEM_HOME": str(tmp_path / "home")})
