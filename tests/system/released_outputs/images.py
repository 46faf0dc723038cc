"""Write images to be classified: a few sound ones of each colour, and awkward files of many kinds.

No encoder is used: its next version would write other bytes, and change every stored digest.
"""

from __future__ import annotations

import base64
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 8
"""Height and width of the sound images, and of the model's input."""

# 12 × 8 pixels of a colour gradient, as Pillow 13 encodes them.
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQ"
    "YEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAIAAwD"
    "ASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAX/xAAcEAABAwUAAAAAAAAAAAAAAAAABiKhAQMEIzH/xAAVAQEBAAAAAAAAAAAAAAAAAAAC"
    "BP/EABoRAAICAwAAAAAAAAAAAAAAAAACAwQFEjH/2gAMAwEAAhEDEQA/AJGCneMgvWU7royACdJWDi702nT/2Q=="
)
_CMYK = (
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAUDg8SDw0UEhASFxUUGB4yIR4cHB49LC4kMklATEtHQEZFUFpzYlBVbVZFRmSIZW13e4GCgU5gjZeMfZZz"
    "foF8/8AAFAgACAAMBEMRAE0RAFkRAEsRAP/EABcAAAMBAAAAAAAAAAAAAAAAAAAFBgT/xAAhEAABAQcFAAAAAAAAAAAAAAAABAECAxYhYqEFIjEz"
    "Qv/aAA4EQwBNAFkASwAAPwBRovkzS3ZgUIkfFCzLZL0OhLdmB3CR7GUA/9k="
)
_WEBP = "UklGRkQAAABXRUJQVlA4IDgAAADQAQCdASoMAAgAAsBMJbACdAEOuwWOAAD+9uOE4Cf8vU6T9Lv1vvXXT2yX7T+nfvmP5rW6biAAAA=="
_ANIMATED_WEBP = (
    "UklGRmwBAABXRUJQVlA4WAoAAAACAAAACwAABwAAQU5JTQYAAAAAAAAAAABBTk1GnAAAAAAAAAAAAAsAAAcAAGQAAAJWUDhMgwAAAC8LwAEA/0KQ"
    "bTOSItwf8gBDIRZMuuePFNj8tyEFAACA3SsAOAwAgGgVZdtutm3bNiL6HwAhGIFEoTFYHB4gKZrBZLE5XB6fECVZoVSpNVqdXjAt2+F0uT1en98I"
    "oziRTKUz2Vw+KKu60Wy1O91evxinebFcrTfb3X44r/vxfL0/39//AEFOTUacAAAAAAAAAAAACwAABwAAZAAAAFZQOEyDAAAALwvAAQD/QpBtM5Ii"
    "3B/yAEMhFky6548U2Py3IQUAAIDdKwA4DACAaBVl2262bds2Ivof//t+3q/n477O47/bbtar5WKexmHf63barWajrsqin8tm0qlkIo7CIO/zetwu"
    "p8O2TMOv02rUKqVClkRBz+Ny2Cwmg6ZIgo/DYtAoJAKGQAAA"
)
_GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"

_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # PNG's colour types


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundImage:
    """A PNG of one colour.

    Attributes:
        levels: of red, green and blue.
    """

    data: bytes
    levels: tuple[int, int, int]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    pixels: bytes, *, width: int = SIDE, height: int = SIDE, colours: int = _RGB, depth: int = 8, extra: bytes = b""
) -> bytes:
    """Return a PNG of these pixels, with the chunks `extra` before them."""
    row = max(1, len(pixels) // height)
    lines = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    # Stored, not compressed: versions of zlib compress to different bytes.
    size = struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF)
    stored = b"\x78\x01\x01" + size + lines + struct.pack(">I", zlib.adler32(lines))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", stored) + _chunk(b"IEND", b"")


def _sound(colour: int, number: int) -> SoundImage:
    """Return an image whose strongest colour is `colour`. A higher `number` blends in more of the next colour."""
    levels = [20, 20, 20]
    levels[colour] = 255 - number
    levels[(colour + 1) % 3] += 50 * number
    return SoundImage(data=_png(bytes(levels) * SIDE * SIDE), levels=(levels[0], levels[1], levels[2]))


SOUND = {
    f"{name}/{number}.png": _sound(colour, number)
    for colour, name in enumerate(("red", "green", "blue"))
    for number in range(4)
}
"""Sound images by their paths in class folders."""


def write_sound(folder: Path) -> None:
    """Write the sound images."""
    for name, image in SOUND.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)


def write_awkward(folder: Path) -> None:
    """Write damaged and unusual images, files that are not images, links, and a pipe."""
    folder.mkdir()
    for name, data in awkward().items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.png").symlink_to("plain.png")
    (folder / "loop").symlink_to(".")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "folder.png").mkdir()


def awkward() -> dict[str, bytes]:
    """Return the contents of awkward files by their names."""
    plain = SOUND["green/1.png"].data
    jpeg, webp = base64.b64decode(_JPEG), base64.b64decode(_WEBP)
    ramp = bytes(range(0, 256, 4))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    return {
        "plain.png": plain,
        'line\nbreak, "quoted".png': plain,
        os.fsdecode(b"not utf-8 \xff.png"): plain,
        ".hidden.png": plain,
        "UPPER.PNG": plain,
        "no-suffix": plain,
        "README.txt": b"hello",
        "text.png": b"hello",
        "empty.jpg": b"",
        "cut.png": plain[:100],
        "corrupt.png": plain[:50] + bytes(20) + plain[70:],
        "no-pixels.png": _png(b""),
        "to-be-resized.png": _png(bytes(x * y % 256 for y in range(40) for x in range(3 * 25)), width=25, height=40),
        "huge.png": _png(b"", width=60_000, height=60_000),
        "long.png": _png(b"", width=70_000, height=1),
        "thin.png": _png(b"", width=60_000, height=1),
        "grey.png": _png(ramp, colours=_GREY),
        "grey-16-bit.png": _png(b"".join(bytes([level, 7]) for level in ramp), colours=_GREY, depth=16),
        "black-and-white.png": _png(b"\x0f" * SIDE, colours=_GREY, depth=1),
        "transparent-grey.png": _png(ramp, colours=_GREY, extra=_chunk(b"tRNS", b"\0\x40")),
        "palette.png": _png(
            bytes(range(4)) * 16,
            colours=_PALETTE,
            extra=_chunk(b"PLTE", bytes(range(200, 212))) + _chunk(b"tRNS", b"\0\x80"),
        ),
        "alpha.png": _png(b"".join(bytes([level, 10, 90, 255 - level]) for level in ramp), colours=_RGBA),
        "photo.jpg": jpeg,
        "a-jpeg.png": jpeg,
        "rotated.jpg": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],
        "cut.jpg": jpeg[:-30],
        "cmyk.jpeg": base64.b64decode(_CMYK),
        "photo.webp": webp,
        "cut.webp": webp[:-20],
        "animated.webp": base64.b64decode(_ANIMATED_WEBP),
        "a-gif.png": _GIF,
        "image.gif": _GIF,
        "photo.bmp": _bmp(),
    }


def _bmp() -> bytes:
    """Return a BMP of one colour."""
    pixels = bytes([30, 60, 220]) * SIDE * SIDE
    header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, len(pixels), 0, 0, 0, 0) + pixels
