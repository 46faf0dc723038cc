"""Finds the images in class folders, and counts the entries that are not images."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES
from classifier.images.names import reason_to_skip_name
from classifier.wording import name_some, tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

_ACCEPTED = f"Tandem reads {', '.join(sorted(IMAGE_SUFFIXES))}"

_Identity = tuple[int, int]
"""Device and inode of a folder."""


def scan_classes(folder: Path, *, may_be_empty: bool = False) -> dict[str, list[Path]]:
    """Return the image files of each class folder in `folder`; labels and files are sorted.

    Links are followed, to files and to folders. The log says how many entries were seen, and how many were skipped and
    why.

    Args:
        folder: holds the class folders.
        may_be_empty: leave out classes without images; otherwise they are an error.

    Raises:
        DataError: there are fewer than two classes, one has no images, or the folder can't be read.
    """
    skipped: Counter[str] = Counter()
    try:
        names = list_folders(folder, skipped)
        if odd := [name for name in names if is_unprintable(name)]:
            raise DataError(f"the class folder {odd[0]!r} in {folder} has an unprintable name: rename it")
        if len(set(map(composed, names))) < len(names):
            twins = [name for name, count in Counter(map(composed, names)).items() if count > 1]
            raise DataError(
                f"{folder} has two class folders whose names look the same but are spelled with other characters: "
                f"{name_some(twins)}; merge them"
            )
        classes = {name: sorted(_find_images(folder / name, skipped)) for name in names}
    except OSError as error:
        raise cannot_be_read(folder, error) from error
    _log_counts(folder, sum(map(len, classes.values())), skipped)
    return _check_classes(folder, classes, may_be_empty=may_be_empty)


def list_folders(parent: Path, skipped: Counter[str]) -> list[str]:
    """Return the sorted names of the folders in `parent`; other entries are counted in `skipped`, by reason.

    Raises:
        OSError: `parent` can't be listed.
    """
    names = []
    with os.scandir(parent) as entries:
        for entry in entries:
            if reason := reason_to_skip_name(entry.name):
                skipped[reason] += 1
            elif os.path.isdir(entry.path):  # noqa: PTH112  false for a link that leads nowhere, or to itself
                names.append(entry.name)
            else:
                skipped["outside the class folders"] += 1
    return sorted(names)


def composed(name: str) -> str:
    """Return `name` in Unicode's composed form; two names that look the same have the same one."""
    return unicodedata.normalize("NFC", name)


def is_unprintable(name: str) -> bool:
    """Return whether `name`, which ends up in JSON and on terminals, has control characters or bytes outside UTF-8."""
    return any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name)


def cannot_be_read(folder: Path, error: OSError) -> DataError:
    """Return the error that says which folder in the data set can't be read, and why."""
    return DataError(f"{error.filename or folder} can't be read ({error.strerror}): check its permissions")


def _find_images(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the image files in `folder` and below; other entries are counted in `skipped`, by reason."""
    pending: list[tuple[Path, frozenset[_Identity]]] = [(folder, frozenset())]
    while pending:
        parent, above = pending.pop()
        identity = _identity(parent)
        if identity in above:
            skipped["link to a folder above"] += 1
            continue
        with os.scandir(parent) as entries:
            for entry in entries:
                path = parent / entry.name
                if reason := reason_to_skip_name(entry.name):
                    skipped[reason] += 1
                elif os.path.isdir(path):  # noqa: PTH112  false for a link that leads nowhere, or to itself
                    pending.append((path, above | {identity}))
                elif path.suffix.lower() not in IMAGE_SUFFIXES:
                    skipped["other suffix"] += 1
                elif "\n" in str(path):
                    raise DataError(f"{str(path)!r} has a line break in its name: rename it")
                else:
                    yield path


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _log_counts(folder: Path, images: int, skipped: Counter[str]) -> None:
    logger.log(
        logging.WARNING if skipped else logging.INFO,
        "%s: %s images of %s entries seen; skipped %s%s",
        folder,
        f"{images:,}",
        f"{images + skipped.total():,}",
        f"{skipped.total():,}",
        f": {tally(skipped)}" if skipped else "",
    )


def _check_classes(folder: Path, classes: dict[str, list[Path]], *, may_be_empty: bool) -> dict[str, list[Path]]:
    if not classes:
        raise DataError(f"{folder} has no class folders: put the images of each class into a folder with its name")
    if not any(classes.values()):
        raise DataError(f"the class folders in {folder} hold no images: {_ACCEPTED}")
    if (empty := [label for label, files in classes.items() if not files]) and not may_be_empty:
        raise DataError(f"these class folders in {folder} hold no images: {name_some(empty)}; fill or remove them")
    if len(classes) < 2:
        raise DataError(f"{folder} has only one class, {min(classes)!r}: a classifier needs two or more")
    return {label: files for label, files in classes.items() if files}
