"""Bytes of an image → uint8 pixels `[H, W, 3]`, in the one way that training, export, service and batch share.

`decoding` has the order of the steps, and each step its own module.
"""

from classifier.images.containers import IMAGE_SUFFIXES
from classifier.images.decoding import DecodedImage, decode_image
from classifier.images.limits import LIMITS, Limits
from classifier.images.reading import read_image

__all__ = ["IMAGE_SUFFIXES", "LIMITS", "DecodedImage", "Limits", "decode_image", "read_image"]
