"""What is taken as an image of a class, and what is skipped and counted."""

from __future__ import annotations

import logging
import shutil
import unicodedata
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DataError
from training.data.folders import open_folders, relabel
from training.data.scanning import scan_classes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a folder with two classes of two images."""
    for label in ("cat", "dog"):
        for name in ("1.png", "2.JPG"):
            add(tmp_path / "classes" / label / name)
    return tmp_path / "classes"


def add(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def names(classes: Path) -> dict[str, list[str]]:
    return {
        label: [file.relative_to(classes / label).as_posix() for file in files]
        for label, files in scan_classes(classes).items()
    }


SKIPPED = {
    "hidden": ("cat/.hidden.png", "cat/.cache/1.png", ".git/1.png"),
    "system folder": (
        "cat/@eaDir/1.png/SYNOPHOTO_THUMB_XL.png",
        "@eaDir/cat/1.png",
        "__MACOSX/cat/1.png",
        "dog/#recycle/1.png",
        "dog/@__thumb/1.png",
        "$RECYCLE.BIN/1.png",
    ),
    "other suffix": ("cat/notes.txt", "dog/below/1.tar"),
    "outside the class folders": ("1.png", "labels.csv"),
}


@pytest.mark.parametrize(("reason", "file"), [(reason, file) for reason, files in SKIPPED.items() for file in files])
@pytest.mark.reported("synology-thumbnails")
def test_what_is_skipped(classes: Path, reason: str, file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Entries that are no images of the user are left out, and the log counts them by reason."""
    add(classes / file)
    with caplog.at_level(logging.INFO):
        assert names(classes) == {"cat": ["1.png", "2.JPG"], "dog": ["1.png", "2.JPG"]}
    assert caplog.messages == [f"{classes}: 4 images of 5 entries seen; skipped 1: 1 {reason}"]


def test_nothing_skipped(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        scan_classes(classes)
    assert caplog.messages == [f"{classes}: 4 images of 4 entries seen; skipped 0"]


def test_links_are_followed(classes: Path, tmp_path: Path) -> None:
    """Links to files, to folders of images and to class folders; a link to a folder above is counted, not followed."""
    elsewhere = add(tmp_path / "elsewhere" / "deep" / "3.png").parent.parent
    (classes / "dog" / "more").symlink_to(elsewhere)
    (classes / "dog" / "4.png").symlink_to(elsewhere / "deep" / "3.png")
    (classes / "owl").symlink_to(elsewhere)
    assert names(classes)["dog"] == ["1.png", "2.JPG", "4.png", "more/deep/3.png"]
    assert names(classes)["owl"] == ["deep/3.png"]


def test_links_that_lead_back(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    (classes / "dog" / "loop").symlink_to(classes / "dog")
    (classes / "dog" / "self").symlink_to("self")
    assert names(classes)["dog"] == ["1.png", "2.JPG"]
    assert "skipped 2: 1 link to a folder above, 1 other suffix" in caplog.text


def test_names_in_two_spellings(classes: Path) -> None:
    """macOS may write é as two characters: labels in the two spellings are one, in train/ and val/ too."""
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split, name in (("train", composed), ("val", decomposed)):
        shutil.copytree(classes, classes.parent / "set" / split)
        shutil.copytree(classes / "cat", classes.parent / "set" / split / name)
    folders = open_folders(classes.parent / "set", val_fraction=None, seed=0)
    assert folders.labels == (composed, "cat", "dog")
    assert [sample.label for sample in folders.val] == [0, 0, 1, 1, 2, 2]
    assert relabel({composed: []}, [decomposed, "cat"]) == {decomposed: []}
    shutil.copytree(classes / "cat", classes / composed)
    shutil.copytree(classes / "cat", classes / decomposed)
    with pytest.raises(DataError, match=r"two class folders whose names look the same .*café; merge them"):
        scan_classes(classes)
