"""A JPEG without its end mark is decoded if nothing else is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from classifier.errors import UnreadableImage
from classifier.images import decode_image
from classifier.types import Preprocessing
from tests.classifier.images.samples import as_stored, encode, exif_block, photo

JPEGS = {
    "plain": encode(photo(40, 40), "JPEG"),
    "turned": encode(photo(40, 40), "JPEG", exif=exif_block(6)),
    "grey": encode(photo(40, 40).convert("L"), "JPEG"),
    "CMYK": encode(photo(40, 40).convert("CMYK"), "JPEG"),
    "subsampled, restart marks": encode(photo(40, 40), "JPEG", subsampling=2, restart_marker_blocks=3),
    "progressive": encode(photo(40, 40), "JPEG", progressive=True),
    "one colour": encode(Image.new("RGB", (40, 40), (90, 120, 30)), "JPEG"),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff"], ids=["no mark", "half a mark"])
@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_without_its_end_mark_it_is_the_same_image(name: str, end: bytes, decode: str) -> None:
    data = JPEGS[name]
    assert data.endswith(b"\xff\xd9")
    preprocessing = Preprocessing(resize_size=8, crop_size=8, decode=decode)
    cut = decode_image(data[:-2] + end, preprocessing)
    assert np.array_equal(cut.pixels, decode_image(data, preprocessing).pixels)
    assert (cut.width, cut.height, cut.format) == (40, 40, "JPEG")


@pytest.mark.parametrize("name", JPEGS)
def test_cut_anywhere_it_is_an_error_or_the_whole_image(name: str) -> None:
    """Missing pixels are never invented; bits that pad the last byte may be missing."""
    data, size = JPEGS[name], as_stored(40)
    whole = decode_image(data, size).pixels
    lost = 0
    for length in range(4, len(data) - 2):
        try:
            pixels = decode_image(data[:length], size).pixels
        except UnreadableImage:
            lost += 1
        else:
            assert np.array_equal(pixels, whole), length
    assert lost > (len(data) - 2) * 0.9


def test_a_truncated_image_is_still_called_so() -> None:
    data = JPEGS["plain"]
    with pytest.raises(UnreadableImage, match=r"JPEG image can't be decoded \(image file is truncated \("):
        decode_image(data[:-100], as_stored(40))
