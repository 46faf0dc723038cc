"""Class folders: a folder of images for each label of a model."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images, require_images
from classifier.errors import DataError
from classifier.wording import counted, name_some, utf8_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.inputs.plan import ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """The images of class folders, in the order of their paths' bytes.

    Attributes:
        folder: the folder or URL that holds the class folders, as it was given.
        labels: the model's.
        truth: the index of each image's label in `labels`.
    """

    folder: str
    files: tuple[ImageFile, ...]
    labels: tuple[str, ...]
    truth: tuple[int, ...]

    def for_labels(self, labels: tuple[str, ...]) -> LabelledFiles:
        """Return the same images for a model that has the same labels in another order."""
        index_of = {label: index for index, label in enumerate(labels)}
        return replace(self, labels=labels, truth=tuple(index_of[self.labels[index]] for index in self.truth))


def labelled_files(folder: str, labels: Sequence[str], *, model: str) -> LabelledFiles:
    """Return the images below `folder`. An image's label is the folder directly below it, however deep the image is.

    Not every label needs a folder. Entries that `tandem batch` skips are skipped.

    Args:
        folder: a folder or its URL.
        labels: the model's.
        model: its identity, for errors.

    Raises:
        DataError: `folder` is not a folder or has no images, an image is in no class folder, or a class folder is not
            named like a label.
    """
    inputs = find_inputs([folder])
    if inputs[0].kind != "folder":
        raise DataError(
            f"'{utf8_text(folder)}' is not a folder; give a folder with one folder of images for each label"
        )
    require_images(inputs)
    # macOS may write é as two characters, other systems as one.
    index_of = {_composed(label): index for index, label in enumerate(labels)}
    files, truth, unknown = [], [], dict[str, None]()
    for file in listed_images(inputs):
        name, slash, _ = utf8_text(file.relative).partition("/")
        if not slash:
            raise DataError(
                f"the image '{file.printable_path}' in '{utf8_text(folder)}' is in no class folder, so its label is "
                "not known; give a folder with one folder of images for each label"
            )
        if (index := index_of.get(_composed(name))) is None:
            unknown[name] = None
        else:
            files.append(file)
            truth.append(index)
    if unknown:
        raise DataError(
            f"{counted(len(unknown), 'folder')} in '{utf8_text(folder)}' {'is' if len(unknown) == 1 else 'are'} not "
            f"named like a label of {model}: "
            f"{name_some(unknown)}; the model's labels are {name_some(labels)}; rename or remove the folders, or give "
            "the folder that holds the class folders"
        )
    return LabelledFiles(folder=utf8_text(folder), files=tuple(files), labels=tuple(labels), truth=tuple(truth))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
