"""Thumbnails: small squares of classified images as data URIs, if the images can still be read."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from batch.pipeline.contained import Decoder
from batch.pipeline.reading import read_file, with_data
from classifier.errors import DataError, ImageError
from classifier.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batch.inputs.plan import ImageFile

log = logging.getLogger(__name__)

SIDE = 160
"""Pixels of a side. A page shows it at half that size, which is sharp on a high-density display."""

# The box filter averages the pixels of a photograph and keeps those of a small icon.
_SQUARE = Preprocessing(resize_size=SIDE, crop_size=SIDE, interpolation="box")


class Pictured(Protocol):
    """An image that a page shows."""

    @property
    def position(self) -> int:
        """Its place in the order of the plan."""

    @property
    def file(self) -> ImageFile:
        """Where it is."""

    @property
    def sha256(self) -> str | None:
        """What it was; None if it could not be read."""


def thumbnails(images: Iterable[Pictured]) -> dict[int, str]:
    """Return the centre of each image, by position. An image that was removed or changed since has none."""
    found: dict[int, str] = {}
    by_place = sorted(images, key=lambda image: image.position)
    with Decoder(_SQUARE) as decode:
        for input, of_input in groupby(by_place, key=lambda image: image.file.input):
            try:
                found.update(_thumbnails_of(list(of_input), decode))
            except DataError as error:
                # Only the images of the lost input are left out.
                log.warning("the report lacks images of '%s': %s", input.given, error)
    return found


def _thumbnails_of(images: Sequence[Pictured], decode: Decoder) -> Iterator[tuple[int, str]]:
    # In the order of the plan, the only order in which compressed files can be read.
    for image, file in zip(images, with_data(image.file for image in images), strict=True):
        with suppress(ImageError):
            data = read_file(file)
            if hashlib.sha256(data).hexdigest() == image.sha256:
                yield image.position, _data_uri(Image.fromarray(decode(data).pixels))


def _data_uri(image: Image.Image) -> str:
    encoded = []
    for format, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82})):
        file = io.BytesIO()
        image.save(file, format, **options)
        encoded.append((file.getvalue(), format))
    data, format = min(encoded, key=lambda each: len(each[0]))
    return f"data:image/{format};base64,{base64.b64encode(data).decode()}"
