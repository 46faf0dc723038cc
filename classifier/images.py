"""Bytes of an image → the uint8 pixels that every model takes. The one place where Tandem decodes and resizes.

Training validation, export, service and batch all come through `decode_image`, so the accuracy that is
reported is the accuracy that production has. In this order:

1. **Decode** JPEG, PNG, WebP or BMP, known by its content, never by a name; of an animation, the first frame.
2. **Orient** as the EXIF tag says.
3. **Convert** to 8-bit RGB: 16 bits keep their high byte, CMYK is read as Adobe writes it (inverted), and
   transparent pixels are laid over `Preprocessing.background`. Colour profiles (ICC, gAMA) are ignored, as
   torchvision and the data sets that networks are trained on ignore them.
4. **Resize**, antialiased and with its aspect kept, until the shorter side is `resize_size`.
5. **Crop** the centre. Rounding in 4 and 5 is that of torchvision's `transforms.v2.Resize` and `CenterCrop`.

Safe to call from several threads: Pillow releases the GIL while it decodes and resizes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageOps import exif_transpose
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from classifier.errors import ImageTooLarge, NotAnImage, UnreadableImage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from classifier.types import Preprocessing

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"})
"""What files of the accepted formats are called; only used to find them, contents decide."""

DECODERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an image may cost.

    Attributes:
        max_bytes: of the encoded image.
        max_side: of either side, in pixels; what a JPEG can hold.
        max_pixels: width × height. Decoding takes up to 16 bytes for each.
        max_resized_pixels: width × height after the resize and before the crop. It bounds what a long, thin image costs:
            10 × 63,498 pixels, its shorter side brought to 256, would be 1.6 million pixels long.
    """

    max_bytes: int = 64 * 2**20
    max_side: int = 65_535
    max_pixels: int = 100_000_000
    max_resized_pixels: int = 64_000_000


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """An image as a model takes it.

    Attributes:
        pixels: uint8 `[crop, crop, 3]`, RGB, its own writable memory.
        width: of the whole image after orientation, before the resize.
        height: likewise.
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


def decode_image(data: bytes, preprocessing: Preprocessing, limits: Limits = LIMITS) -> DecodedImage:
    """Return the image that `data` encodes, resized and cropped as `preprocessing` says.

    Raises:
        NotAnImage: the bytes are not of an accepted format.
        ImageTooLarge: over one of the limits.
        UnreadableImage: empty, truncated or corrupt.
    """
    if not data:
        raise UnreadableImage("the image is empty: it has no bytes", reason="empty")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data):,} bytes, more than the {limits.max_bytes:,} that are accepted")
    format = _sniff(data)
    try:
        with DECODERS[format](BytesIO(data)) as source:
            resized = _resized_size(source.size, preprocessing.resize_size)
            _check_size(source.size, resized, limits)
            if preprocessing.decode == "scaled":
                # Twice the target leaves the filter enough to average over. Only JPEG can; the others ignore it.
                source.draft(None, (2 * preprocessing.resize_size, 2 * preprocessing.resize_size))
            width, height = source.size
            image = exif_transpose(source)
            if image.size != source.size:
                width, height, resized = height, width, resized[::-1]
            image = _to_rgb(image, preprocessing.background)
            image = image.resize(resized, Image.Resampling[preprocessing.interpolation.upper()])
            pixels = np.array(_centre_crop(image, preprocessing.crop_size))
    except (ImageTooLarge, UnreadableImage):
        raise
    except Exception as error:  # noqa: BLE001
        raise UnreadableImage(f"the {format} image is truncated or corrupt: {error}") from error
    return DecodedImage(pixels=pixels, width=width, height=height, format=format)


def _sniff(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM") and data[14:18] in {bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124)}:
        return "BMP"
    raise NotAnImage("the file is not an image of an accepted format (JPEG, PNG, WebP or BMP)")


def _resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _check_size(size: tuple[int, int], resized: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if max(size) > limits.max_side or width * height > limits.max_pixels:
        raise ImageTooLarge(f"the image has {width:,} × {height:,} pixels, more than the limit")
    if resized[0] * resized[1] > limits.max_resized_pixels:
        raise ImageTooLarge(f"the image is too long and thin: {width:,} × {height:,} pixels")


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def read_image(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of the image file at `path`, without waiting on a pipe or reading past the limit.

    Raises:
        UnreadableImage: missing, not a regular file, or not readable.
        ImageTooLarge: over `limits.max_bytes`.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{str(path)!r} is not a regular file", reason="not_a_file")
            data = file.read(min(status.st_size, limits.max_bytes) + 1)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{str(path)!r} does not exist", reason="missing") from error
    except PermissionError as error:
        raise UnreadableImage(f"{str(path)!r} may not be read by this user", reason="permission_denied") from error
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"{str(path)!r} can't be read: {error}") from error
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"{str(path)!r} has more than the {limits.max_bytes:,} bytes that are accepted")
    return data
