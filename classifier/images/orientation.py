"""The EXIF orientation: read from the file, then applied to the pixels."""

from __future__ import annotations

import struct

from PIL import Image

from classifier.images.containers import EXIF_PREFIX

# EXIF orientation → the operation that turns the stored image upright.
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
    """Return the orientation in an EXIF block, 1…8; 1 (upright) if the block has none or can't be read.

    The block is a TIFF file; its first directory holds the orientation (CIPA DC-008, 4.6.4, tag 274).
    """
    tiff = exif.removeprefix(EXIF_PREFIX)
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
        # The block is cut short. Other software shows such images as stored.
        return 1
    return 1


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the width and height of an image after `to_upright`."""
    return size if orientation < 5 else size[::-1]


def to_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned and mirrored as its EXIF orientation says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
