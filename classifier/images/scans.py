"""How long a JPEG takes to decode, told by its scans: each of them passes over all pixels, however few bytes it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.errors import ImageTooLarge

if TYPE_CHECKING:
    from classifier.images.containers import Container

MAX_SCANNED_PIXELS = 4_000_000_000
"""Maximum of scans × pixels: 5 to 10 s of one CPU. Encoders write about 10 scans, or 1,000,000,000 at most."""


def check_scans(container: Container, size: tuple[int, int]) -> None:
    """Check that an image of this size is no JPEG whose scans take long to decode.

    Raises:
        ImageTooLarge: its scans pass over more than MAX_SCANNED_PIXELS.
    """
    width, height = size
    if container.scans * width * height > MAX_SCANNED_PIXELS:
        raise ImageTooLarge(
            f"the JPEG image of {width:,} × {height:,} pixels in {container.scans} scans takes too long to decode: "
            "re-encode it",
            reason="too_slow",
        )
