"""Errors of `tandem train`: each is one sentence, with exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.training.commands import ONE_THREAD, QUICK, command, equal_weights
from training.files import BEST, CHECKPOINT, RECORD, lock_folder
from training.network import SmallCNN
from training.run import Run

if TYPE_CHECKING:
    from tests.training.conftest import Train

TWO_EPOCHS = ("--epochs", "2", "--batch-size", "16")


def error_of(train: Train, *args: str | Path) -> str:
    """Return the error of `tandem train`, after checking that it created no run folder."""
    result = train(*args)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert not Path("runs").exists()
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    return error


def test_missing_folder(train: Train) -> None:
    assert "none does not exist: name a folder of class folders" in error_of(train, "none")


def test_file_instead_of_a_folder(train: Train) -> None:
    Path("file").touch()
    assert "file is not a folder" in error_of(train, "file")


def test_folder_without_classes(train: Train, few_digits: Path) -> None:
    assert "0 has no class folders" in error_of(train, few_digits / "train" / "0", "--val-fraction", "0.2")


def test_folder_without_images(train: Train) -> None:
    Path("data/cats").mkdir(parents=True)
    Path("data/cats/notes.txt").touch()
    error = error_of(train, "data", "--val-fraction", "0.2")
    assert "the class folders in data hold no images" in error
    assert ".jpg" in error


def test_class_folder_without_images(train: Train, my_digits: Path) -> None:
    """The error names the class: a network with a label that was never trained would be silently wrong."""
    (my_digits / "train" / "9").mkdir()
    assert f"these class folders in {my_digits}/train hold no images: 9;" in error_of(train, my_digits)


def test_label_that_would_never_be_trained(train: Train, my_digits: Path) -> None:
    """The error lists the labels that only val/ has."""
    shutil.rmtree(my_digits / "train" / "2")
    error = error_of(train, my_digits)
    assert "val/ in" in error
    assert "that train/ lacks, so they would never be trained: 2; add them to train/, or remove them" in error


def test_one_class(train: Train, my_digits: Path) -> None:
    for split in ("train", "val"):
        for digit in "123":
            shutil.rmtree(my_digits / split / digit)
    assert "train has only one class, '0'" in error_of(train, my_digits)


def test_nothing_to_validate_with(train: Train, few_digits: Path) -> None:
    assert "has no train/ and val/: give the part" in error_of(train, few_digits / "train")


def test_val_fraction_beside_a_val_folder(train: Train, few_digits: Path) -> None:
    assert "leave out --val-fraction" in error_of(train, few_digits, "--val-fraction", "0.2")


def test_class_with_one_image(train: Train, my_digits: Path) -> None:
    """One image can't both train and validate."""
    for file in sorted((my_digits / "val" / "2").iterdir())[1:]:
        file.unlink()
    assert "but these have only one: 2" in error_of(train, my_digits / "val", "--val-fraction", "0.2")


def test_images_that_cannot_be_read(train: Train, my_digits: Path) -> None:
    """All are found before the first epoch; the error names the first five and counts the rest."""
    files = sorted(my_digits.rglob("*.png"))[:7]
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    error = error_of(train, my_digits)
    assert error.startswith("Error: 7 images can't be read: ")
    assert all(str(file) in error for file in files[:5])
    assert "and 2 more, all listed above; repair or remove them, or leave them out with --skip-unreadable" in error


def test_complete_list_of_images_that_cannot_be_read(train: Train, my_digits: Path) -> None:
    """The log has a line for each image that the error doesn't name."""
    files = sorted(my_digits.rglob("*.png"))[:7]
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    lines = subprocess.run(command(my_digits), capture_output=True, text=True, check=False).stderr.splitlines()
    listed = [line for line in lines if "unreadable: " in line]
    assert len(listed) == 7
    assert all(any(str(file) in line for line in listed) for file in files)


def test_skipping_leaves_a_class_without_images(train: Train, my_digits: Path) -> None:
    """--skip-unreadable never trains a label without images."""
    for file in (my_digits / "train" / "2").iterdir():
        file.write_bytes(b"")
    assert "no training image of 2 in" in error_of(train, my_digits, "--skip-unreadable")


def test_dangling_link(train: Train, my_digits: Path) -> None:
    (my_digits / "val" / "0" / "gone.png").symlink_to("nowhere.png")
    assert "gone.png" in error_of(train, my_digits)


def test_names_that_cannot_be_printed(train: Train, my_digits: Path) -> None:
    """A label with a line break, or with bytes that are not UTF-8, would break tables and JSON."""
    for name in ("4\n5", os.fsdecode(b"caf\xe9")):
        for split in ("train", "val"):
            shutil.copytree(my_digits / split / "0", my_digits / split / name)
        assert "has an unprintable name: rename it" in error_of(train, my_digits)
        shutil.rmtree(my_digits / "train" / name)
        shutil.rmtree(my_digits / "val" / name)
    image = next((my_digits / "val" / "0").iterdir())
    image.rename(image.with_name("two\nlines.png"))
    assert "has a line break in its name: rename it" in error_of(train, my_digits)


def test_unknown_network(train: Train, few_digits: Path) -> None:
    assert "'resnt50': did you mean resnet50" in error_of(train, few_digits, "--arch", "resnt50")


def test_image_size_that_a_network_cannot_take(train: Train, few_digits: Path) -> None:
    assert "alexnet can't take images of 8 pixels" in error_of(train, few_digits, "--arch", "alexnet")
    vit = ("--arch", "vit_b_16", "--image-size", "30")
    assert "vit_b_16 can't take images of 30 pixels" in error_of(train, few_digits, *vit)


def test_missing_weights(train: Train, few_digits: Path) -> None:
    assert "none.pt: give a file, or DEFAULT" in error_of(train, few_digits, "--weights", "none.pt")


def test_files_that_are_not_weights(train: Train, few_digits: Path) -> None:
    """Text, a byte, a pickle that would run code, a list and numbered tensors are not state dicts."""
    Path("text.pt").write_text("weights")
    torch.save([torch.zeros(1)], "list.pt")
    torch.save({"network": Path("x")}, "pickle.pt")
    torch.save({0: torch.zeros(1)}, "numbers.pt")
    Path("byte.pt").write_bytes(b"\x80")
    for file in ("text.pt", "list.pt", "pickle.pt", "numbers.pt", "byte.pt"):
        assert "torch.save(network.state_dict(), …)" in error_of(train, few_digits, "--weights", file)


def test_weights_of_another_network(train: Train, few_digits: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), "linear.pt")
    assert "are not those of small_cnn" in error_of(train, few_digits, "--weights", "linear.pt")


def test_weights_of_another_shape(train: Train, few_digits: Path) -> None:
    state = SmallCNN(4).state_dict()
    state["features.0.weight"] = torch.zeros(32, 1, 3, 3)
    torch.save(state, "grey.pt")
    error = error_of(train, few_digits, "--weights", "grey.pt")
    assert "'features.0.weight' is (32, 1, 3, 3) in the file and (32, 3, 3, 3) in the network" in error


def test_network_without_weights(train: Train, few_digits: Path) -> None:
    arch = ("--arch", "small_cnn", "--weights", "DEFAULT")
    assert "torchvision has no weights for small_cnn" in error_of(train, few_digits, *arch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(train: Train, few_digits: Path) -> None:
    """A request for a GPU never falls back to the CPU silently."""
    assert "can't train on cuda: give --device cpu" in error_of(train, few_digits, "--device", "cuda")


@pytest.mark.parametrize(
    "option",
    [("--epochs", "0"), ("--lr", "-1"), ("--lr", "nan"), ("--val-fraction", "1"), ("--batch-size", "1"), ("--resume",)],
)
def test_usage(train: Train, few_digits: Path, option: tuple[str, ...]) -> None:
    """A value out of range, or --resume without --run, is a usage error with exit code 2."""
    result = train(few_digits, *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr


def test_run_folder_of_another_run(train: Train, few_digits: Path, undisturbed: Run, tmp_path: Path) -> None:
    """A run is never overwritten."""
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    assert "already holds a run: add --resume" in error_of(train, few_digits, "--run", path)
    assert equal_weights(Run.open(path), undisturbed)


def test_run_folder_with_something_else(train: Train, few_digits: Path) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    assert "holds files that are not a run (thesis.txt)" in error_of(train, few_digits, "--run", "mine")
    assert "thesis.txt is a file" in error_of(train, few_digits, "--run", "mine/thesis.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_run_folder_that_cannot_be_created(train: Train, few_digits: Path) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "closed/run can't be created, because" in error_of(train, few_digits, "--run", "closed/run")


def test_run_folder_on_a_read_only_file_system(train: Train, few_digits: Path) -> None:
    """Not even root can create a folder in /proc."""
    assert "/proc/run can't be written" in error_of(train, few_digits, "--run", "/proc/run")


def test_resume_without_a_run(train: Train, few_digits: Path) -> None:
    assert "none holds no training run" in error_of(train, few_digits, "--run", "none", "--resume")


def test_resume_with_other_options(train: Train, few_digits: Path, undisturbed: Run) -> None:
    """The error names each difference, with the old value and the new one."""
    changed = ("--seed", "13", "--lr", "0.5", "--batch-size", "16", "--skip-unreadable")
    error = error_of(train, few_digits, "--run", undisturbed.path, "--resume", *changed)
    assert "--seed was 0, not 13" in error
    assert "--lr was 0.002, not 0.5" in error
    assert "--skip-unreadable was False, not True" in error
    assert "--batch-size" not in error


def test_fewer_epochs_than_there_are(train: Train, few_digits: Path, undisturbed: Run) -> None:
    error = error_of(train, few_digits, "--run", undisturbed.path, "--resume", "--epochs", "5")
    assert "has 12 epochs already, so --epochs 5 is too few" in error


def test_resume_with_other_data(train: Train, few_digits: Path, my_digits: Path) -> None:
    """A run can't be resumed with other images, in another folder or in the same one."""
    assert train(my_digits, "--run", "run", *TWO_EPOCHS).exit_code == 0
    next((my_digits / "train" / "0").iterdir()).unlink()
    assert "are not those that run was started with" in error_of(train, my_digits, "--run", "run", "--resume")
    other = Path(shutil.copytree(few_digits, "other"), "val", "0")
    next(other.iterdir()).unlink()
    assert "images in other are not those" in error_of(train, "other", "--run", "run", "--resume")


def test_damaged_run(train: Train, few_digits: Path, undisturbed: Run, tmp_path: Path) -> None:
    """The error names a truncated checkpoint or a damaged record."""
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    (path / CHECKPOINT).write_bytes((path / CHECKPOINT).read_bytes()[:1000])
    assert f"{path / CHECKPOINT} is damaged" in error_of(train, few_digits, "--run", path, "--resume")
    (path / RECORD).write_text(json.dumps({"schema_version": 1}))
    assert f"{path / RECORD} is damaged" in error_of(train, few_digits, "--run", path, "--resume")


def test_two_processes_in_one_run(train: Train, few_digits: Path, undisturbed: Run, tmp_path: Path) -> None:
    """The second process is refused; otherwise they would overwrite each other's checkpoints."""
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    with lock_folder(path):
        assert "another process is training in" in error_of(train, few_digits, "--run", path, "--resume")


def test_full_disk(train: Train, few_digits: Path, undisturbed: Run, tmp_path: Path) -> None:
    """If the disk fills up while a checkpoint is written, only that epoch is lost: --resume continues before it."""
    path = tmp_path / "run"
    full = 1_000_000  # larger than the other files, smaller than a checkpoint

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, full))

    done = subprocess.run(
        command(few_digits, "--run", path, *QUICK),
        env=os.environ | ONE_THREAD,
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"Error: {path / CHECKPOINT} can't be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (path / BEST).exists()
    subprocess.run(command(few_digits, "--run", path, "--resume"), env=os.environ | ONE_THREAD, check=True)
    assert equal_weights(Run.open(path), undisturbed)


def test_loss_that_is_not_finite(train: Train, few_digits: Path) -> None:
    """A run that diverges ends with an error, and keeps no weights."""
    state = SmallCNN(4).state_dict()
    state["head.bias"][0] = float("inf")
    torch.save(state, "infinite.pt")
    result = train(few_digits, "--weights", "infinite.pt", "--run", "run", *TWO_EPOCHS)
    assert result.exit_code == 1
    assert "the loss is not a finite number in epoch 1" in result.stderr
    assert not Path("run", CHECKPOINT).exists()
