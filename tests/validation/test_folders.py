"""Class folders, and what is not one."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DataError
from validation.folders import labelled_files

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("ant", "bee", "café")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_label_is_the_folder_below_the_given_one(tmp_path: Path) -> None:
    """Images may lie deeper, even in a folder with another label's name; what a bulk run skips is skipped."""
    touch(tmp_path, "bee/1.png", "bee/ant/2.jpg", "ant/3.png", ".hidden/4.png", "notes.txt", "ant/list.csv")
    (tmp_path / "empty").mkdir()
    found = labelled_files(str(tmp_path), LABELS, model="m")
    assert [file.relative for file in found.files] == ["ant/3.png", "bee/1.png", "bee/ant/2.jpg"]
    assert found.truth == (0, 1, 1)
    assert found.for_labels(("bee", "café", "ant")).truth == (2, 0, 0)


def test_a_name_in_decomposed_letters(tmp_path: Path) -> None:
    """A folder from macOS, where é is two characters, is the label's."""
    touch(tmp_path, unicodedata.normalize("NFD", "café") + "/1.png")
    assert labelled_files(str(tmp_path), LABELS, model="m").truth == (2,)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "no image in "),
        (("notes.txt",), "no image in .*skipped: other suffix 1.*an image's name ends in one of"),
        (("ant/1.png", "2.png"), "the image '2.png' in .* is in no class folder"),
        (
            ("ant/1.png", "wasp/2.png", "fly/3.png"),
            "2 folders in .* are not named like a label of m: fly, wasp; the model's",
        ),
        (
            ("test/ant/1.png",),
            "1 folder in .*: test; the model's labels are ant, bee, café; .*give the folder that holds",
        ),
    ],
)
def test_folders_without_labels(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    """Each ends in one sentence that names the folder and the remedy."""
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=sentence):
        labelled_files(str(tmp_path), LABELS, model="m")


def test_what_is_no_folder(tmp_path: Path) -> None:
    """A missing folder and a file are named."""
    with pytest.raises(DataError, match=re.escape(f"the input '{tmp_path / 'gone'}' can't be read")):
        labelled_files(str(tmp_path / "gone"), LABELS, model="m")
    touch(tmp_path, "1.png")
    with pytest.raises(DataError, match=r"1\.png' is not a folder; give a folder with one folder of images for each"):
        labelled_files(str(tmp_path / "1.png"), LABELS, model="m")
