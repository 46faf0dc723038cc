"""The names of the folders with training and validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from classifier.errors import DataError
from training.data.folders import open_folders
from training.data.splits import find_splits

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        ("train val", ("train", "val")),
        ("Train Val", ("Train", "Val")),
        ("TRAIN VALID", ("TRAIN", "VALID")),
        ("training validation", ("training", "validation")),
        ("train valid test", ("train", "valid")),
        ("Training Testing", ("Training", None)),
        ("train val valid Train", ("train", "val")),
        ("train", ("train", None)),
        ("Train", ("Train", None)),
        ("train cat", ("train", None)),
        ("training match", (".", None)),
        ("valid invalid", (".", None)),
        ("cat dog", (".", None)),
        ("train val .cache @eaDir", ("train", "val")),
        ("", (".", None)),
    ],
)
@pytest.mark.reported("train-names-of-splits")
def test_names_of_splits(tmp_path: Path, folders: str, found: tuple[str, str | None]) -> None:
    """Splits are found by their usual names in any case; what could be a class stays one."""
    for name in folders.split():
        (tmp_path / name).mkdir()
    assert find_splits(tmp_path) == found


@pytest.mark.parametrize(
    ("folders", "error"),
    [
        ("Train training val", "has Train/, training/: rename the one to use to train/"),
        ("train valid validation", "has valid/, validation/: rename the one to use to val/"),
        ("val", "has val/ but no train/"),
        ("Val Test", "has Test/, Val/ but no train/"),
    ],
)
def test_ambiguous_splits(tmp_path: Path, folders: str, error: str) -> None:
    """They are refused by name, never taken for classes."""
    for name in folders.split():
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=error):
        find_splits(tmp_path)


def test_splits_are_used(tmp_path: Path) -> None:
    """The images come from these folders, and a fraction beside them is refused."""
    for split in ("Training", "valid"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "1.png").touch()
    folders = open_folders(tmp_path, val_fraction=None, seed=0)
    assert (folders.labels, folders.val_folder) == (("cat", "dog"), "valid")
    assert folders.train[0].path == tmp_path / "Training" / "cat" / "1.png"
    with pytest.raises(DataError, match="already has a valid/ folder: leave out --val-fraction"):
        open_folders(tmp_path, val_fraction=0.2, seed=0)
