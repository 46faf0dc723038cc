"""Bytes of an image → uint8 pixels `[H, W, 3]`: the one decoder that training, export, service and batch share.

- `reading`: a file's bytes, within the limits.
- `decoding`: `decode_image`, which calls the steps below in order.
- `containers`: which format it is, and which bytes of the file the codec gets.
- `limits`: what one image may cost; checked before any pixel is decoded.
- `memory`: how much all threads together may use to decode.
- `colours`: every pixel type → 8-bit RGB.
- `orientation`: the EXIF orientation, read and applied.
- `scans`: how long a JPEG may take to decode.
- `endings`: JPEGs that lack only their end mark.
- `names`: entries of a folder that are no images of the user.
- `resizing`: sizes and crop, rounded as torchvision rounds them.

A new format needs its signature and suffixes in `containers`, its Pillow plugin in `decoding`, its bytes per pixel in
`memory`, and test images in tests/classifier/images/samples.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from classifier.images.limits import LIMITS, Limits

if TYPE_CHECKING:
    from classifier.images.containers import IMAGE_SUFFIXES
    from classifier.images.decoding import DecodedImage, decode_image
    from classifier.images.reading import read_image

__all__ = ["IMAGE_SUFFIXES", "LIMITS", "DecodedImage", "Limits", "decode_image", "read_image"]

# Imported on first use: Pillow and numpy, which a process that only knows the limits does without.
_LATE = {
    "IMAGE_SUFFIXES": "classifier.images.containers",
    "DecodedImage": "classifier.images.decoding",
    "decode_image": "classifier.images.decoding",
    "read_image": "classifier.images.reading",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_LATE[name]), name)
