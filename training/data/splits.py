"""The folders of a data set that hold its training and validation images, by their names."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from classifier.errors import DataError
from classifier.wording import name_some
from training.data.scanning import cannot_be_read, list_folders

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation")
_SPLITS = frozenset({*_TRAIN, *_VAL, "test", "testing"})


def find_splits(root: Path) -> tuple[str, str | None]:
    """Return the names of the folders with the training and the validation images.

    They are `train/` and `val/`, or `training/`, `valid/` and `validation/`, in upper or lower case. Without a training
    folder, the first is `.`: `root` itself holds the classes. The second is None if there is no validation folder.

    Raises:
        DataError: several folders could be meant, there is only a validation folder, or `root` can't be read.
    """
    try:
        folders = list_folders(root, Counter())
    except OSError as error:
        raise cannot_be_read(root, error) from error
    train, val = _find(root, folders, _TRAIN), _find(root, folders, _VAL)
    others = [name for name in folders if name not in (train, val)]
    # Apart from `train` itself, these names can also be classes: `valid` and `invalid`, `training` and `match`.
    if train is None or (train != "train" and val is None and not _are_splits(others)):
        if folders and _are_splits(folders):
            raise DataError(
                f"{root} has {name_some(f'{name}/' for name in folders)} but no train/: name the folder with the "
                "training images train/"
            )
        return ".", None
    if others:
        logger.info("%s: not used: %s", root, name_some(f"{name}/" for name in others))
    return train, val


def _are_splits(folders: Sequence[str]) -> bool:
    return all(name.casefold() in _SPLITS for name in folders)


def _find(root: Path, folders: Sequence[str], names: tuple[str, ...]) -> str | None:
    """Return the folder that has the first of `names`, else the one that has another of them in any case."""
    if names[0] in folders:
        return names[0]
    found = [name for name in folders if name.casefold() in names]
    if len(found) > 1:
        raise DataError(f"{root} has {name_some(f'{name}/' for name in found)}: rename the one to use to {names[0]}/")
    return found[0] if found else None
