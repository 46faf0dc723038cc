"""JPEGs that lack their end mark: a sound image that was cut by two bytes, or one that lacks pixels too."""

from __future__ import annotations

import re
from io import BytesIO

from PIL import ImageChops
from PIL.JpegImagePlugin import JpegImageFile

_END = b"\xff\xd9"
_RESTARTS = [b"\xff" + bytes([0xD0 + number]) for number in range(8)]
_FILLERS = tuple(
    b"".join(bytes([bits]) * 64 + restart for restart in (*_RESTARTS, b""))
    for bits in (0b11111110, 0b10101010, 0b01010101)
)
"""Pixel data that no image needs, beside the zeros that a decoder takes after the end: other bits from the first on,
and every mark that the next rows may wait for."""

# ISO/IEC 10918-1, B.2.2 and B.2.3: frame header and scan header.
_FRAME = re.compile(rb"\xff[\xc0-\xc2]..\x08....(.)", re.DOTALL)
_SCAN = re.compile(rb"\xff\xda..([\x01-\x04])", re.DOTALL)


def with_end(data: bytes) -> bytes:
    """Return the JPEG `data`, which lacks its end mark, with one; unchanged if it lacks pixels too.

    A decoder makes missing pixels of whatever follows, and ignores what follows an image that is whole. So an image is
    whole if it has all scans, and all endings give the same pixels.

    Raises:
        Exception: Pillow can't decode it.
    """
    if not _has_all_scans(data):
        return data
    pixel_data = data.rstrip(b"\xff")  # half of an end mark
    ended = pixel_data + _END
    image = JpegImageFile(BytesIO(ended))
    for filler in _FILLERS:
        other = JpegImageFile(BytesIO(pixel_data + filler + _END))
        if ImageChops.difference(image, other).getbbox(alpha_only=False) is not None:
            return data
    return ended


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans give all 64 coefficients of each component to the last bit."""
    frame = _FRAME.search(data)
    missing = 0 if frame is None else 64 * frame[1][0]
    given = set()
    for scan in _SCAN.finditer(data):
        count = scan[1][0]
        components = data[scan.end() : scan.end() + 2 * count : 2]
        first, last, bits = data[scan.end() + 2 * count : scan.end() + 2 * count + 3]
        if bits & 0x0F == 0:  # else the last bits come in a later scan
            given |= {(component, coefficient) for component in components for coefficient in range(first, last + 1)}
    return 0 < missing <= len(given)
