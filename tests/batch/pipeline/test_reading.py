from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import ImageFile
from batch.pipeline.reading import LoadedImage, in_background, load_image, load_images, map_ahead
from classifier.errors import ImageError
from classifier.images import DecodedImage

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from classifier.model import Model


def test_results_keep_the_order_of_the_items() -> None:
    """What takes long comes out where it went in."""

    def slow_when_odd(number: int) -> int:
        time.sleep(0.01 * (number % 2))
        return -number

    assert list(map_ahead(slow_when_odd, range(20), threads=4, ahead=6)) == [-number for number in range(20)]


def test_never_further_ahead_than_the_bound() -> None:
    """Memory is bounded: no more than `ahead` items are taken beyond those that were asked for."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = map_ahead(abs, items(), threads=4, ahead=10)
    for asked in range(1, 50):
        next(results)
        assert taken <= asked + 10
    results.close()


def test_closing_ends_the_threads() -> None:
    """A run that stops early leaves no thread behind."""
    before = threading.active_count()
    results = map_ahead(abs, range(1000), threads=4, ahead=10)
    next(results)
    assert threading.active_count() == before + 4
    results.close()
    assert threading.active_count() == before


def test_in_the_background_items_are_made_ahead_and_no_further() -> None:
    """Items come in their order, a few of them made before they are asked for; closing ends what makes them."""
    made: list[int] = []
    ended = threading.Event()

    def items() -> Generator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            ended.set()

    results = in_background(items(), ahead=5)
    assert [next(results) for _ in range(50)] == list(range(50))
    assert len(made) <= 50 + 5
    results.close()
    assert ended.is_set()
    assert list(in_background(items(), ahead=5)) == list(range(1000))


def test_what_is_being_made_can_be_stopped() -> None:
    """Closing does not wait for an item that takes long, if that can be told to end."""
    stopped = threading.Event()

    def items() -> Generator[bool]:
        yield True
        yield stopped.wait(60)

    started = time.monotonic()
    results = in_background(items(), ahead=1, stop=stopped.set)
    assert next(results)
    results.close()
    assert time.monotonic() - started < 30


def test_what_fails_in_the_background_fails_where_it_is_asked_for() -> None:
    """An error comes out after the items before it."""

    def items() -> Generator[int]:
        yield 1
        raise ImageError("no more")

    results = in_background(items(), ahead=5)
    assert next(results) == 1
    with pytest.raises(ImageError, match="no more"):
        next(results)


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
