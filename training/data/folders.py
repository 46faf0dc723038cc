"""Class folders: the images of a data set, their labels, and the split into training and validation."""

from __future__ import annotations

import hashlib
import logging
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

_NAMED_IN_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image file and the index of its label."""

    path: Path
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolders:
    """A data set of class folders, divided into training and validation images.

    Attributes:
        root: the data set's folder.
        labels: the names of the class folders, sorted.
        train: the training images, sorted by path.
        val: the validation images, sorted by path.
        val_folder: the folder with the class folders of `val`, relative to `root`: `val`, `train` or `.`.
    """

    root: Path
    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    val_folder: str

    def digest(self) -> str:
        """Return a digest of all paths and file sizes; it differs if images were added, removed or changed in size."""
        lines = hashlib.sha256()
        for split, samples in (("train", self.train), ("val", self.val)):
            for sample in samples:
                relative = sample.path.relative_to(self.root).as_posix()
                # lstat, because a dangling link is reported later, with the other unreadable images.
                line = f"{split}\0{relative}\0{sample.path.lstat().st_size}\n"
                lines.update(line.encode(errors="surrogateescape"))
        return f"sha256:{lines.hexdigest()}"


def open_folders(root: Path, *, val_fraction: float | None, seed: int) -> ImageFolders:
    """Return the data set in `root`: its `train/` and `val/`, or one folder of classes, split in two.

    Args:
        root: holds `train/` and `val/` with the same class folders, or `train/` alone, or class folders.
        val_fraction: the fraction of each class that validates; needed if there is no `val/`, else None.
        seed: of the split.

    Raises:
        DataError: there are fewer than two classes with images, `train/` and `val/` have different classes, or
            `val_fraction` is missing or not needed.
    """
    _check_is_folder(root)
    train_folder = "train" if (root / "train").is_dir() else "."
    if (root / "val").is_dir() and train_folder == "train":
        if val_fraction is not None:
            raise DataError(f"{root} already has a val/ folder: leave out --val-fraction")
        train = scan_classes(root / "train")
        val = scan_classes(root / "val")
        _check_same_labels(root, train, val)
        return _image_folders(root, train, val, val_folder="val")
    if val_fraction is None:
        found = "train/ but no val/" if train_folder == "train" else "no train/ and val/"
        raise DataError(
            f"{root} has {found}: give the part of each class to validate with, for example --val-fraction 0.2"
        )
    classes = scan_classes(root / train_folder)
    train, val = _split_classes(classes, root=root, fraction=val_fraction, seed=seed)
    return _image_folders(root, train, val, val_folder=train_folder)


def hold_out(files: Iterable[Path], *, root: Path, fraction: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Split `files` in two: return those kept, and the `fraction` held out; neither list is empty.

    The order of a hash of the name decides. So the same names and seed give the same split on every machine and with
    every library version, and adding a file moves hardly any other.
    """

    def rank(file: Path) -> bytes:
        name = f"{seed}\0{file.relative_to(root).as_posix()}"
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    ranked = sorted(files, key=rank)
    count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
    return sorted(ranked[count:]), sorted(ranked[:count])


def name_some(names: Iterable[object], *, limit: int = _NAMED_IN_ERRORS) -> str:
    """Return the first few names and the number of the rest, for a message."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _split_classes(
    classes: Mapping[str, list[Path]], *, root: Path, fraction: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    if single := [label for label, files in classes.items() if len(files) < 2]:
        raise DataError(
            f"each class in {root} needs two images, one to train and one to validate, but these have only one: "
            f"{name_some(single)}"
        )
    halves = {label: hold_out(files, root=root, fraction=fraction, seed=seed) for label, files in classes.items()}
    return {label: half[0] for label, half in halves.items()}, {label: half[1] for label, half in halves.items()}


def scan_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder in `folder`; labels and files are sorted.

    Raises:
        DataError: there are fewer than two classes, one has no images, or the folder can't be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if odd := [name for name in names if _is_unprintable(name)]:
            raise DataError(f"the class folder {odd[0]!r} in {folder} has an unprintable name: rename it")
        classes = {name: _scan_images(folder / name) for name in names}
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} can't be read ({error.strerror}): check its permissions"
        ) from error
    if not classes:
        raise DataError(f"{folder} has no class folders: put the images of each class into a folder with its name")
    if not any(classes.values()):
        raise DataError(f"the class folders in {folder} hold no images: {_ACCEPTED}")
    if empty := [label for label, files in classes.items() if not files]:
        raise DataError(f"these class folders in {folder} hold no images: {name_some(empty)}; fill or remove them")
    if len(classes) < 2:
        raise DataError(f"{folder} has only one class, {names[0]!r}: a classifier needs two or more")
    return classes


_ACCEPTED = f"Tandem reads {', '.join(sorted(IMAGE_SUFFIXES))}"


def _scan_images(folder: Path) -> list[Path]:
    files: list[Path] = []
    ignored = 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")]
        ignored += sum(not name.startswith(".") for name in names) - len(images)
        files += [Path(parent, name) for name in images]
    if ignored:
        logger.warning("%s: ignored %d files without an image suffix", folder, ignored)
    if odd := [file for file in files if "\n" in str(file)]:
        raise DataError(f"{str(odd[0])!r} has a line break in its name: rename it")
    return sorted(files)


def _is_unprintable(name: str) -> bool:
    """Return whether `name`, which ends up in JSON and on terminals, has control characters or bytes outside UTF-8."""
    return any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name)


def _raise(error: OSError) -> None:
    raise error


def _check_is_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root} does not exist: name a folder of class folders, or 'digits'")
    if _is_unprintable(str(root.absolute())):
        raise DataError(f"the path {str(root)!r} is unprintable: rename the folder")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name a folder of class folders, or 'digits'")


def _check_same_labels(root: Path, train: Mapping[str, object], val: Mapping[str, object]) -> None:
    """Check that both folders have the same labels: the others would never be trained, or never be measured."""
    differences = [
        f"only {half}/ has {name_some(sorted(only))}"
        for half, only in (("train", train.keys() - val.keys()), ("val", val.keys() - train.keys()))
        if only
    ]
    if differences:
        raise DataError(
            f"train/ and val/ in {root} need the same class folders, but {' and '.join(differences)}: "
            "add the missing folders, or remove the extra ones"
        )


def _image_folders(
    root: Path, train: Mapping[str, list[Path]], val: Mapping[str, list[Path]], *, val_folder: str
) -> ImageFolders:
    labels = tuple(sorted(train))
    return ImageFolders(
        root=root, labels=labels, train=_samples(labels, train), val=_samples(labels, val), val_folder=val_folder
    )


def _samples(labels: tuple[str, ...], classes: Mapping[str, list[Path]]) -> tuple[Sample, ...]:
    return tuple(Sample(path=path, label=index) for index, label in enumerate(labels) for path in classes[label])
