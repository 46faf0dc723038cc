"""Class folders: the images of a data set, their labels, and the split into training and validation."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classifier.errors import DataError
from classifier.wording import name_some
from training.data.scanning import composed, is_unprintable, scan_classes
from training.data.splits import find_splits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)


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
                # lstat, because a dangling link is reported later, with the other unreadable images.
                line = f"{split}\0{self.name_of(sample)}\0{sample.path.lstat().st_size}\n"
                lines.update(line.encode(errors="surrogateescape"))
        return f"sha256:{lines.hexdigest()}"

    def without(self, files: Collection[str]) -> ImageFolders:
        """Return the data set without these files, named relative to `root`.

        Raises:
            DataError: a class loses its last training image, or the data set its last validation image.
        """

        def rest(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
            return tuple(sample for sample in samples if self.name_of(sample) not in files)

        kept = replace(self, train=rest(self.train), val=rest(self.val))
        trained = {sample.label for sample in kept.train}
        if lost := [label for index, label in enumerate(self.labels) if index not in trained]:
            raise DataError(
                f"no training image of {name_some(lost)} in {self.root} can be read: repair some, or remove the class"
            )
        if not kept.val:
            raise DataError(f"no validation image in {self.root} can be read: repair some")
        return kept

    def name_of(self, sample: Sample) -> str:
        """Return the path of an image relative to `root`, as a run records it; any byte of the name is kept."""
        return sample.path.relative_to(self.root).as_posix()


def open_folders(root: Path, *, val_fraction: float | None, seed: int) -> ImageFolders:
    """Return the data set in `root`: its `train/` and `val/`, or one folder of classes, split in two.

    A class without validation images is trained; the log says that it is not measured.

    Args:
        root: holds `train/` and `val/` with the same class folders, or `train/` alone, or class folders;
            `training.data.splits` knows more names for the two.
        val_fraction: the fraction of each class that validates; needed if there is no `val/`, else None.
        seed: of the split.

    Raises:
        DataError: there are fewer than two classes with images, `val/` has a class that `train/` lacks, or
            `val_fraction` is missing or not needed.
    """
    _check_is_folder(root)
    train_folder, val_folder = find_splits(root)
    if val_folder is not None:
        if val_fraction is not None:
            raise DataError(f"{root} already has a {val_folder}/ folder: leave out --val-fraction")
        train = scan_classes(root / train_folder)
        val = relabel(scan_classes(root / val_folder, may_be_empty=True), train)
        _check_labels(root, (train_folder, train), (val_folder, val))
        return _image_folders(root, train, val, val_folder=val_folder)
    if val_fraction is None:
        found = "no train/ and val/" if train_folder == "." else f"{train_folder}/ but no val/"
        raise DataError(
            f"{root} has {found}: give the part of each class to validate with, for example --val-fraction 0.2"
        )
    classes = scan_classes(root / train_folder)
    train, val = _split_classes(classes, root=root, fraction=val_fraction, seed=seed)
    return _image_folders(root, train, val, val_folder=train_folder)


def relabel(classes: Mapping[str, list[Path]], labels: Iterable[str]) -> dict[str, list[Path]]:
    """Return `classes` with the names spelled as in `labels`: macOS may write é as two characters, others as one."""
    spelling = {composed(label): label for label in labels}
    return {spelling.get(composed(name), name): files for name, files in classes.items()}


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


def _split_classes(
    classes: Mapping[str, list[Path]], *, root: Path, fraction: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    if single := [label for label, files in classes.items() if len(files) < 2]:
        raise DataError(
            f"each class in {root} needs two images, one to train and one to validate, but these have only one: "
            f"{name_some(single)}; add images, or divide the data set into train/ and val/ yourself"
        )
    halves = {label: hold_out(files, root=root, fraction=fraction, seed=seed) for label, files in classes.items()}
    return {label: half[0] for label, half in halves.items()}, {label: half[1] for label, half in halves.items()}


def _check_is_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root} does not exist: name a folder of class folders, or 'digits'")
    if is_unprintable(str(root.absolute())):
        raise DataError(f"the path {str(root)!r} is unprintable: rename the folder")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name a folder of class folders, or 'digits'")


def _check_labels(
    root: Path, train: tuple[str, Mapping[str, list[Path]]], val: tuple[str, Mapping[str, list[Path]]]
) -> None:
    """Check that every class of the validation split is trained; log the classes that aren't measured."""
    (train_folder, trained), (val_folder, measured) = train, val
    if only := sorted(measured.keys() - trained.keys()):
        raise DataError(
            f"{val_folder}/ in {root} has class folders that {train_folder}/ lacks, so they would never be trained: "
            f"{name_some(only)}; add them to {train_folder}/, or remove them"
        )
    if only := sorted(trained.keys() - measured.keys()):
        logger.warning(
            "%s/ in %s has no images of %s: trained, but not part of any accuracy that is reported",
            *(val_folder, root, name_some(only)),
        )


def _image_folders(
    root: Path, train: Mapping[str, list[Path]], val: Mapping[str, list[Path]], *, val_folder: str
) -> ImageFolders:
    labels = tuple(sorted(train))
    return ImageFolders(
        root=root, labels=labels, train=_samples(labels, train), val=_samples(labels, val), val_folder=val_folder
    )


def _samples(labels: tuple[str, ...], classes: Mapping[str, list[Path]]) -> tuple[Sample, ...]:
    return tuple(
        Sample(path=path, label=index) for index, label in enumerate(labels) for path in classes.get(label, [])
    )
