"""Orientation: what the EXIF tag of a camera says about which side is up, and how the image is turned."""

from __future__ import annotations

import struct

from PIL import Image

_EXIF = b"Exif\0\0"

# What brings an image upright that has this EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(exif: bytes) -> int:
    """Return the orientation 1…8 of an EXIF block; 1, upright, where it says none or can't be read.

    The block is a TIFF file whose first directory holds it (CIPA DC-008, 4.6.4, tag 274).
    """
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, type, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if (tag, type) == (274, 3):
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        # Cut short: images are shown upright then.
        return 1
    return 1


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the width and height that an image of this size has once it is upright."""
    return size if orientation < 5 else size[::-1]


def to_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned and mirrored as its orientation says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
