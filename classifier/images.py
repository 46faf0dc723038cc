"""Bytes of an image → the uint8 pixels that every model takes. The one place where Tandem decodes and resizes.

Training validation, export, service and batch all come through `decode_image`, so the accuracy that is reported is
the accuracy that production has. In this order:

1. **Decode** JPEG, PNG, WebP or BMP, known by its content, never by a name; of an animation the first frame, of a PNG
   its still image.
2. **Orient** as the EXIF tag says.
3. **Convert** to 8-bit RGB. 16 bits keep their high byte; CMYK is read as Adobe writes it into a JPEG, inverted;
   transparent pixels are laid over `Preprocessing.background`. Colour profiles (ICC, gAMA) are ignored: so they are
   by torchvision, and by the data sets that networks are trained on.
4. **Resize**, antialiased and with its aspect kept, until the shorter side is `resize_size`.
5. **Crop** the centre. 4 and 5 round as torchvision's `transforms.v2.Resize` and `CenterCrop` do.

Safe to call from several threads: Pillow releases the GIL while it decodes, converts and resizes. Together they take
no more memory than `classifier.memory` has for them: 40 bytes of WebP can need a gigabyte, and come many at a time.
"""

from __future__ import annotations

import os
import stat
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from classifier.containers import Container, open_container, read_orientation
from classifier.errors import ImageError, ImageTooLarge, UnreadableImage
from classifier.memory import bytes_to_decode, decoding_memory

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from classifier.types import Preprocessing

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"})
"""What files of the accepted formats are called, in lower case. For finding them: contents decide what they are."""

# Called directly, not through Image.open: no other format's code can be reached, whatever Pillow has installed, and the
# process-wide Image.MAX_IMAGE_PIXELS neither warns nor refuses before our own limits do.
_CODECS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: of the file.
        max_side: of width and of height, in pixels: what a JPEG can have.
        max_pixels: width × height.
        max_resized_pixels: width × height between resize and crop. It refuses the long and thin: an image of
            10 × 63,498 pixels would become 256 × 1,625,548.
        max_memory: of decoding and resizing, in bytes, as much as its format can need: 14 bytes for each pixel of a
            PNG, 12 of a JPEG, 9 of a BMP, 20 of a WebP, of which 75 megapixels are therefore the most.
    """

    max_bytes: int = 64 * 2**20
    max_side: int = 65_535
    max_pixels: int = 100_000_000
    max_resized_pixels: int = 64_000_000
    max_memory: int = 1_500_000_000


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """An image as a model takes it.

    Attributes:
        pixels: uint8 `[crop, crop, 3]`, RGB; writable, and nobody else's memory.
        width: of the whole image, upright, before the resize.
        height: likewise.
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


def decode_image(data: bytes, preprocessing: Preprocessing, limits: Limits = LIMITS) -> DecodedImage:
    """Return the image in the file `data`, upright, resized and cropped as `preprocessing` says.

    What a codec can conceal, such as flipped bits inside a JPEG's pixels, is not noticed.

    Raises:
        NotAnImage: it is not of an accepted format.
        ImageTooLarge: it is over one of the `limits`.
        UnreadableImage: it is empty, truncated or corrupt.
    """
    if not data:
        raise UnreadableImage("the image is empty, a file of 0 bytes: copy or export it again", reason="empty")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(_too_many_bytes("the image", len(data), limits))
    container = open_container(data)
    # Given back when no frame holds a pixel any more, neither of `_decode` nor of an error's traceback.
    with ExitStack() as memory:
        try:
            return _decode(container, preprocessing, limits, memory)
        except ImageError:
            raise
        except Exception as error:
            # Bytes made by an enemy, read by code that was written for friends: beside OSError come ValueError,
            # TypeError, SyntaxError, NotImplementedError, struct.error, …, and one image must not end a service or a
            # bulk run. Who keeps the error must not keep half-decoded pixels with it, in the frames of its traceback.
            traceback.clear_frames(error.__traceback__)
            raise _explain(container.format, error) from error


def _explain(format: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return ImageTooLarge(f"the {format} image is too large to be decoded: shrink it")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreadableImage(f"the {format} image can't be decoded ({reason}): copy or export it again")


def _decode(container: Container, preprocessing: Preprocessing, limits: Limits, memory: ExitStack) -> DecodedImage:
    source = _CODECS[container.format](BytesIO(container.data))  # reads the header alone
    orientation = read_orientation(container.exif or source.info.get("exif", b""))
    width, height = source.size if orientation < 5 else source.size[::-1]
    resized = _resized_size(width, height, preprocessing.resize_size)
    _check_limits(container.format, (width, height), resized, limits)
    if container.format == "PNG":
        _match_transparent_colour(source, bit_depth=container.data[24])
    if preprocessing.decode == "scaled":
        # Twice the target leaves the resize enough to average. Only JPEG's codec can; for the others it does nothing.
        source.draft(None, (2 * preprocessing.resize_size, 2 * preprocessing.resize_size))
    needed = bytes_to_decode(container.format, (width, height), resized)
    memory.enter_context(decoding_memory(LIMITS.max_memory).take(needed))
    image = _to_rgb(source, preprocessing.background)
    if orientation in _UPRIGHT:
        # Before the resize, though after it would be cheaper: only so are the pixels those of the upright image.
        image = image.transpose(_UPRIGHT[orientation])
    # The whole image, then the crop: `resize(box=…)` of the crop alone rounds its coefficients differently.
    image = image.resize(resized, Image.Resampling[preprocessing.interpolation.upper()])
    pixels = np.array(_centre_crop(image, preprocessing.crop_size))
    return DecodedImage(pixels=pixels, width=width, height=height, format=container.format)


def _resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _check_limits(format: str, size: tuple[int, int], resized: tuple[int, int], limits: Limits) -> None:
    image = f"the {format} image of {size[0]:,} × {size[1]:,} pixels"
    if max(size) > limits.max_side:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_side:,} on a side: shrink it")
    if size[0] * size[1] > limits.max_pixels:
        raise ImageTooLarge(f"{image} is over the limit of {limits.max_pixels:,} pixels: shrink it")
    if resized[0] * resized[1] > limits.max_resized_pixels:
        raise ImageTooLarge(
            f"{image} is too long and thin, {resized[0]:,} × {resized[1]:,} when resized for the model, "
            f"over the limit of {limits.max_resized_pixels:,} pixels: crop it"
        )
    if (memory := bytes_to_decode(format, size, resized)) > limits.max_memory:
        raise ImageTooLarge(
            f"{image} can take {memory:,} bytes of memory, over the limit of {limits.max_memory:,}: shrink it"
        )


def _match_transparent_colour(source: ImageFile, *, bit_depth: int) -> None:
    # A PNG names its one transparent colour at its own bit depth, and Pillow compares it with pixels of 8 bits.
    colour = source.info.get("transparency")
    if source.mode == "L" and isinstance(colour, int) and bit_depth in {2, 4}:
        source.info["transparency"] = colour * 255 // (2**bit_depth - 1)
    elif source.mode == "RGB" and isinstance(colour, tuple) and bit_depth == 16:
        source.info["transparency"] = tuple(level >> 8 for level in colour)


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image)
        return canvas
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255. The high byte is what it keeps of 16-bit colours.
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    # Python's round, half to even, as torchvision has it.
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def read_image(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return the bytes of the image file `path`, without waiting on a pipe or reading past `limits.max_bytes`.

    Raises:
        UnreadableImage: it is missing (reason `missing`), a folder, pipe or device (`not_a_file`), closed to this user
            (`permission_denied`), or its disk fails (`unreadable`).
        ImageTooLarge: it is over `limits.max_bytes`.
    """
    name = repr(str(path))  # A name may hold line breaks, or bytes that are no UTF-8.
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{name} is not a regular file: name an image file", reason="not_a_file")
            if status.st_size > limits.max_bytes:
                raise ImageTooLarge(_too_many_bytes(name, status.st_size, limits))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # Room for all that it may be would be taken and given back each time.
                data = file.read(status.st_size + 1)
                if len(data) > status.st_size:  # it has grown since
                    data += file.read(limits.max_bytes + 1 - len(data))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableImage(f"{name} does not exist: check the path", reason="missing") from error
    except PermissionError as error:
        raise UnreadableImage(f"{name} may not be read by this user: allow it", reason="permission_denied") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UnreadableImage(f"{name} can't be read ({error}): check the path and the disk") from error
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(_too_many_bytes(name, len(data), limits))
    return data


def _too_many_bytes(what: str, size: int, limits: Limits) -> str:
    return f"{what} has {size:,} bytes, over the limit of {limits.max_bytes:,}: encode it smaller"
