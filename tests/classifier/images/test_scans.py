"""JPEGs whose scans take long to decode."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from classifier.errors import ImageTooLarge
from classifier.images.containers import open_container
from classifier.images.scans import MAX_SCANNED_PIXELS, check_scans


def jpeg(side: int, scans: int) -> bytes:
    """Return a square grey JPEG with so many scans, most of which change nothing."""
    buffer = BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def check(data: bytes) -> None:
    """Check an encoded image, as `decode_image` does once it has read the header."""
    check_scans(open_container(data), JpegImageFile(BytesIO(data)).size)


def test_usual_scans() -> None:
    """The scans that encoders write are fine at any size."""
    check(jpeg(9990, 12))


def test_many_scans_of_a_small_image() -> None:
    """Many scans are fine where they take no time."""
    check(jpeg(1000, 100))


def test_many_scans_of_a_large_image() -> None:
    """The product counts."""
    side = 8000
    with pytest.raises(ImageTooLarge, match="90 scans takes too long") as caught:
        check(jpeg(side, 90))
    assert side * side * 90 > MAX_SCANNED_PIXELS
    assert caught.value.reason == "too_slow"


def test_scans_of_a_thumbnail() -> None:
    """Bytes of metadata that look like scans do not count."""
    data, fake = jpeg(8000, 10), b"\xff\xda" * 1000
    segment = b"\xff\xe1" + (2 + len(fake)).to_bytes(2, "big") + fake
    check(data[:2] + segment + data[2:])
