"""`decode_image`: the bytes of an image → the uint8 pixels that every model takes.

Training validation, export, service and batch all call it, so the reported accuracy is the accuracy in production. The
steps, in order:

1. **Open** the container: JPEG, PNG, WebP or BMP, recognised by its content, never by its name.
2. **Check the limits** against the size in the header, then wait for enough memory.
3. **Decode**: the first frame of an animation, the still image of a PNG. A JPEG may lack its end mark, but no pixels.
4. **Convert** to 8-bit RGB. 16-bit levels keep their high byte, so 12 bits of data in 16 are dark, which the log says;
   CMYK in a JPEG is read as Adobe writes it, inverted; transparent pixels are laid over `Preprocessing.background`; a
   BMP whose alpha is 0 everywhere is opaque. Colour profiles (ICC, gAMA) are ignored, as torchvision and most training
   sets ignore them.
5. **Orient** as the EXIF tag says.
6. **Resize** with antialiasing until the shorter side is `resize_size`; the aspect ratio stays.
7. **Crop** the centre. 6 and 7 round as torchvision's `transforms.v2.Resize` and `CenterCrop` do.

Safe to call from several threads: Pillow releases the GIL while it decodes, converts and resizes.
"""

from __future__ import annotations

import traceback
from contextlib import AbstractContextManager, ExitStack
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
from classifier.images.colours import match_transparent_colour, to_rgb, warn_of_dark_levels, without_unused_alpha
from classifier.images.containers import Container, open_container
from classifier.images.endings import with_end
from classifier.images.limits import LIMITS, Limits, check_limits, too_many_bytes
from classifier.images.memory import bytes_to_decode, bytes_to_decode_plain, decoding_memory
from classifier.images.orientation import read_orientation, to_upright, upright_size
from classifier.images.resizing import centre_crop, resized_size
from classifier.images.scans import check_scans

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from classifier.types import Preprocessing

# Called directly, not through Image.open: no other format's code is reachable, whatever plugins Pillow has, and the
# process-wide Image.MAX_IMAGE_PIXELS can't warn or refuse before our own limits do.
_CODECS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}

_BIT_DEPTH = 24
"""Where a PNG has its bits per sample, a field of IHDR."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """An image as a model takes it.

    Attributes:
        pixels: uint8 `[crop, crop, 3]`, RGB; writable, owned by the caller.
        width: width of the whole upright image before the resize, in pixels.
        height: its height.
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


def decode_image(data: bytes, preprocessing: Preprocessing, limits: Limits = LIMITS) -> DecodedImage:
    """Return the pixels of an encoded image: upright, resized and cropped as `preprocessing` says.

    Damage that a codec can't see, such as flipped bits inside a JPEG's pixels, goes unnoticed.

    Raises:
        NotAnImage: the format is not an accepted one.
        ImageTooLarge: the image is over one of the `limits`.
        UnreadableImage: the image is empty, truncated or corrupt.
    """
    if not data:
        raise UnreadableImage("the image is empty (0 bytes): copy or export it again", reason="empty")
    if len(data) > limits.max_bytes:
        raise too_many_bytes("the image", len(data), limits)
    container = open_container(data)
    # The memory is given back once no frame holds pixels: neither that of `_decode` nor one in an error's traceback.
    with ExitStack() as memory:
        try:
            return _decode(container, preprocessing, limits, memory)
        except ImageError:
            raise
        except Exception as error:
            # On hostile bytes, Pillow raises not only OSError but ValueError, TypeError, SyntaxError,
            # NotImplementedError, struct.error, …; one image must not end a service or a bulk run. Cleared, so that a
            # caller who keeps the error doesn't keep half-decoded pixels in its traceback.
            traceback.clear_frames(error.__traceback__)
            raise _explain(container.format, error) from error


def _explain(format: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return ImageTooLarge(f"the {format} image is too large to decode: shrink it")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnreadableImage(f"the {format} image can't be decoded ({reason}): copy or export it again")


def _decode(container: Container, preprocessing: Preprocessing, limits: Limits, memory: ExitStack) -> DecodedImage:
    source = _CODECS[container.format](BytesIO(container.data))  # reads only the header
    orientation = read_orientation(container.exif or source.info.get("exif", b""))
    width, height = upright_size(source.size, orientation)
    resized = resized_size(width, height, preprocessing.resize_size)
    check_limits(container.format, (width, height), resized, limits)
    check_scans(container, source.size)
    _prepare(source, container, preprocessing)
    needed = bytes_to_decode(container.format, (width, height), resized)
    if _is_plain(source, container):
        needed = bytes_to_decode_plain(source.size, resized, is_turned=orientation > 1)
    memory.enter_context(_reserve(needed, f"the {container.format} image of {width:,} × {height:,} pixels"))
    if container.lacks_end:
        source = JpegImageFile(BytesIO(with_end(container.data)))
        _prepare(source, container, preprocessing)
    if container.format == "PNG" and container.data[_BIT_DEPTH] == 16:
        warn_of_dark_levels(source)
    image = to_rgb(without_unused_alpha(source), preprocessing.background)
    # Turn before the resize: turning the smaller image would be cheaper, but gives slightly different pixels.
    image = to_upright(image, orientation)
    # Resize the whole image, then crop: `resize(box=…)` would round its coefficients differently.
    image = image.resize(resized, Image.Resampling[preprocessing.interpolation.upper()])
    pixels = np.array(centre_crop(image, preprocessing.crop_size))
    return DecodedImage(pixels=pixels, width=width, height=height, format=container.format)


def _prepare(source: ImageFile, container: Container, preprocessing: Preprocessing) -> None:
    """Tell an opened image how to be decoded."""
    if container.format == "PNG":
        match_transparent_colour(source, bit_depth=container.data[_BIT_DEPTH])
    if preprocessing.decode == "scaled":
        # Twice the target leaves the resize enough to average. Only JPEG's codec supports this; others ignore it.
        source.draft(None, (2 * preprocessing.resize_size, 2 * preprocessing.resize_size))


def _is_plain(source: ImageFile, container: Container) -> bool:
    """Return whether an opened image decodes at once to opaque grey or RGB, with the least memory for its format."""
    if source.mode not in {"L", "RGB"} or "transparency" in source.info or container.lacks_end:
        return False
    if container.format == "JPEG":
        # A progressive JPEG, or one of several scans, keeps its coefficients until the last scan.
        return container.scans == 1 and b"\xff\xc2" not in container.data
    return container.format == "PNG"


def _reserve(needed: int, image: str) -> AbstractContextManager[None]:
    """Return a context that holds `needed` bytes of the memory for decoding `image`.

    Raises:
        ImageTooLarge: the memory of this container never suffices.
    """
    budget = decoding_memory(LIMITS.max_memory)
    if needed > budget.size:
        raise ImageTooLarge(
            f"{image} can need {needed:,} bytes of memory, but this container's limit leaves {budget.size:,} for "
            "images: shrink it, or give the container more memory"
        )
    return budget.take(needed)
