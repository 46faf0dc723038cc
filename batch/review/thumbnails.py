"""Thumbnails: small squares of images that a run classified, as data URIs, where the images can still be read."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING

from PIL import Image

from batch.pipeline.contained import Decoder
from batch.pipeline.reading import read_file, with_data
from classifier.errors import DataError, ImageError
from classifier.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batch.review.survey import SeenImage

log = logging.getLogger(__name__)

SIDE = 160
"""Pixels of a side: sharp where a page shows it half as large on a dense display."""

# Box averages the pixels of a photograph, and leaves those of a small icon as they are.
_SQUARE = Preprocessing(resize_size=SIDE, crop_size=SIDE, interpolation="box")


def thumbnails(images: Iterable[SeenImage]) -> dict[int, str]:
    """Return the middle of each image by its position. One that has gone or changed since has none."""
    found: dict[int, str] = {}
    by_place = sorted(images, key=lambda image: image.position)
    with Decoder(_SQUARE) as decode:
        for input, of_input in groupby(by_place, key=lambda image: image.file.input):
            try:
                found.update(_thumbnails_of(list(of_input), decode))
            except DataError as error:
                # An input that has gone takes its own images with it, and no others.
                log.warning("the report lacks images of '%s': %s", input.given, error)
    return found


def _thumbnails_of(images: Sequence[SeenImage], decode: Decoder) -> Iterator[tuple[int, str]]:
    # In the order of the plan: what is compressed can't be read in another.
    for image, file in zip(images, with_data(image.file for image in images), strict=True):
        with suppress(ImageError):
            data = read_file(file)
            if hashlib.sha256(data).hexdigest() == image.outcome.sha256:
                yield image.position, _data_uri(Image.fromarray(decode(data).pixels))


def _data_uri(image: Image.Image) -> str:
    encoded = []
    for format, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82})):
        file = io.BytesIO()
        image.save(file, format, **options)
        encoded.append((file.getvalue(), format))
    data, format = min(encoded, key=lambda each: len(each[0]))
    return f"data:image/{format};base64,{base64.b64encode(data).decode()}"
