"""Loading images: what is loaded, and the error that prevents it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import ImageFile
from batch.pipeline.loading import LoadedImage, load_image, load_images
from classifier.errors import ImageError
from classifier.images import DecodedImage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier.model import Model


@pytest.fixture
def loaded(tmp_path: Path, model: Model, image: bytes) -> dict[str, LoadedImage]:
    """Return what became of a sound image, and of files that were not what the plan saw."""
    contents = {"a.png": image, "b.jpg": b"no image", "c.png": image[:60], "d.png": b"", "e.png": image}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    [folder] = find_inputs([str(tmp_path)])

    def load(files: Sequence[ImageFile]) -> list[LoadedImage]:
        return [load_image(file, model.decode) for file in files]

    names = (*contents, "pipe.png", "folder.png", "gone.png")
    files = [ImageFile(input=folder, relative=name) for name in names]
    return dict(zip(names, load_images(files, load, threads=3, ahead=2), strict=True))


def test_one_bad_image_spoils_no_other(loaded: dict[str, LoadedImage]) -> None:
    """Each file gives its image or its own reason, and a pipe under an image's name is not waited for."""
    reasons = {name: item.image.reason for name, item in loaded.items() if isinstance(item.image, ImageError)}
    assert reasons == {
        "b.jpg": "not_an_image",
        "c.png": "unreadable",
        "d.png": "empty",
        "pipe.png": "not_a_file",
        "folder.png": "not_a_file",
        "gone.png": "missing",
    }
    sound = [item.image for item in loaded.values() if isinstance(item.image, DecodedImage)]
    assert [(each.width, each.height) for each in sound] == [(8, 8), (8, 8)]


def test_size_and_digest_of_what_was_read(loaded: dict[str, LoadedImage], image: bytes) -> None:
    """Size and SHA-256 are those of the file, also where it is no image, and absent where it can't be read."""
    assert (loaded["a.png"].bytes, loaded["a.png"].sha256) == (len(image), hashlib.sha256(image).hexdigest())
    assert (loaded["b.jpg"].bytes, loaded["b.jpg"].sha256) == (8, hashlib.sha256(b"no image").hexdigest())
    assert (loaded["gone.png"].bytes, loaded["gone.png"].sha256) == (None, None)
