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
no more memory than `classifier.images.memory` has for them: 40 bytes of WebP can need a gigabyte, and come many at a
time.
"""

from __future__ import annotations

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

from classifier.errors import ImageError, ImageTooLarge, UnreadableImage
from classifier.images.colours import match_transparent_colour, to_rgb
from classifier.images.containers import Container, open_container
from classifier.images.limits import LIMITS, Limits, check_limits, too_many_bytes
from classifier.images.memory import bytes_to_decode, decoding_memory
from classifier.images.orientation import read_orientation, to_upright, upright_size
from classifier.images.resizing import centre_crop, resized_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from classifier.types import Preprocessing

# Called directly, not through Image.open: no other format's code can be reached, whatever Pillow has installed, and the
# process-wide Image.MAX_IMAGE_PIXELS neither warns nor refuses before our own limits do.
_CODECS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}


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
        raise too_many_bytes("the image", len(data), limits)
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
    width, height = upright_size(source.size, orientation)
    resized = resized_size(width, height, preprocessing.resize_size)
    check_limits(container.format, (width, height), resized, limits)
    if container.format == "PNG":
        match_transparent_colour(source, bit_depth=container.data[24])
    if preprocessing.decode == "scaled":
        # Twice the target leaves the resize enough to average. Only JPEG's codec can; for the others it does nothing.
        source.draft(None, (2 * preprocessing.resize_size, 2 * preprocessing.resize_size))
    needed = bytes_to_decode(container.format, (width, height), resized)
    memory.enter_context(decoding_memory(LIMITS.max_memory).take(needed))
    image = to_rgb(source, preprocessing.background)
    # Before the resize, though after it would be cheaper: only so are the pixels those of the upright image.
    image = to_upright(image, orientation)
    # The whole image, then the crop: `resize(box=…)` of the crop alone rounds its coefficients differently.
    image = image.resize(resized, Image.Resampling[preprocessing.interpolation.upper()])
    pixels = np.array(centre_crop(image, preprocessing.crop_size))
    return DecodedImage(pixels=pixels, width=width, height=height, format=container.format)
