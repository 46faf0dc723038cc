"""How long a JPEG takes to decode, told by its scans: each of them passes over all pixels, however few bytes it has."""

from __future__ import annotations

from io import BytesIO

from PIL.JpegImagePlugin import JpegImageFile

from classifier.errors import ImageTooLarge
from classifier.images.containers import open_container

MAX_SCANNED_PIXELS = 4_000_000_000
"""Maximum of scans × pixels: 5 to 10 s of one CPU. Encoders write about 10 scans, or 1,000,000,000 at most."""

_START_OF_SCAN = b"\xff\xda"


def check_scans(data: bytes) -> None:
    """Check that an image is no JPEG whose scans take long to decode. The bytes are otherwise not checked.

    Raises:
        ImageTooLarge: its scans pass over more than MAX_SCANNED_PIXELS.
        ImageError: the file has more segments or scans than any encoder writes.
    """
    if not data.startswith(b"\xff\xd8\xff") or data.count(_START_OF_SCAN) <= 1:
        return
    container = open_container(data)  # without thumbnails, which have scans of their own
    scans = container.data.count(_START_OF_SCAN)
    try:
        width, height = JpegImageFile(BytesIO(container.data)).size
    except Exception:  # noqa: BLE001  # on hostile bytes Pillow raises anything; decoding says what is wrong
        return
    if scans * width * height > MAX_SCANNED_PIXELS:
        raise ImageTooLarge(
            f"the JPEG image of {width:,} × {height:,} pixels in {scans} scans takes too long to decode: re-encode it",
            reason="too_slow",
        )
