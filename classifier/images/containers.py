"""Bytes of an image file → its format, its EXIF block, and the bytes that make pixels. No codec runs yet.

Pillow parses all metadata (EXIF, text, profiles, animations, appended pictures) as soon as it opens a file. A hostile
file makes that slow and large (16 MiB of empty JPEG segments: 9 s and 600 MB), some sound images are refused (PNG text
that unpacks to over 1 MiB), and Pillow warns through `warnings`, which can't be silenced for one thread. So metadata
never reaches Pillow: a classifier needs only one number of it, the orientation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from classifier.errors import NotAnImage, UnreadableImage

ACCEPTED = "JPEG, PNG, WebP or BMP"

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"})
"""Suffixes of the accepted formats, in lower case: for finding images in folders. Content decides the format."""

MAX_PARTS = 100_000
"""Maximum of segments in a JPEG or chunks in a PNG. The usual PNG of 64 MiB has 8,192 chunks of 8 KiB."""

MAX_SCANS = 100
"""Maximum of scans in a progressive JPEG; about 10 are usual. A scan of 100 bytes can take 0.3 s to decode."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})

# ISO/IEC 10918-1, annex B. Inside pixel data, 0xFF is followed by 0x00 or by a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
# Comments and APP segments are dropped, except APP0 (JFIF) and APP14 (Adobe): they say how colours are stored.
_JPEG_METADATA = frozenset({0xFE, *range(0xE1, 0xF0)} - {0xEE})
EXIF_PREFIX = b"Exif\0\0"

_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)

_NOT_ACCEPTED = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"\0\0\1\0": "ICO",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}
_ISO_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An image file without its metadata.

    Attributes:
        format: `JPEG`, `PNG`, `WebP` or `BMP`.
        data: what the codec needs of a JPEG or PNG; the whole file of a WebP or BMP.
        exif: the first EXIF block of a JPEG or PNG, without its `Exif` prefix in a JPEG; else empty.
        lacks_end: whether a JPEG ends in the pixel data of a scan, without its end mark.
        scans: number of scans of a JPEG.
    """

    format: str
    data: bytes
    exif: bytes = b""
    lacks_end: bool = False
    scans: int = 0


def open_container(data: bytes) -> Container:
    """Return the container of an image file, recognised by its content alone.

    Raises:
        NotAnImage: the format is not an accepted one.
        UnreadableImage: the file has more segments, scans or chunks than any encoder writes.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _open_jpeg(data)
    if data.startswith(_PNG_SIGNATURE):
        return _open_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Container(format="WebP", data=data)
    # "BM" alone is too weak a signature: text can begin with it.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return Container(format="BMP", data=data)
    other = next((name for signature, name in _NOT_ACCEPTED.items() if data.startswith(signature)), None)
    if data[4:8] == b"ftyp":
        other = _ISO_BRANDS.get(data[8:12])
    if other is not None:
        raise NotAnImage(f"the file is {other}, which is not accepted: convert it to {ACCEPTED}")
    raise NotAnImage(f"the file's content is not an image in an accepted format: convert it to {ACCEPTED}")


def _open_jpeg(data: bytes) -> Container:
    parts = [data[:2]]
    exif = b""
    scans = segments = 0
    lacks_end = False
    marker = _JPEG_MARKER.search(data, 2)
    while marker is not None:
        start, kind = marker.start(), data[marker.start() + 1]
        if kind == _EOI:
            # Phones append further pictures or a film after the end.
            parts.append(data[start : start + 2])
            break
        segments += 1
        scans += kind == _SOS
        if segments > MAX_PARTS or scans > MAX_SCANS:
            raise UnreadableImage(f"the JPEG image has over {MAX_PARTS:,} segments or {MAX_SCANS} scans: re-encode it")
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        marker = _JPEG_MARKER.search(data, end)
        if kind == _SOS:
            # Pixel data follows the segment, up to the next marker.
            lacks_end = marker is None and end < len(data)
            end = marker.start() if marker is not None else len(data)
        if kind == _APP1 and not exif and data.startswith(EXIF_PREFIX, start + 4):
            exif = data[start + 4 + len(EXIF_PREFIX) : end]
        if kind not in _JPEG_METADATA:
            parts.append(data[start:end])
    return Container(format="JPEG", data=b"".join(parts), exif=exif, lacks_end=lacks_end, scans=scans)


def _open_png(data: bytes) -> Container:
    # https://www.w3.org/TR/png-3/#5Chunk-layout: length, type, contents, CRC.
    parts = [_PNG_SIGNATURE]
    exif = b""
    start = len(_PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if kind == b"eXIf" and not exif:
            exif = data[start + 8 : end - 4]
        if kind in _PNG_PIXELS:
            parts.append(data[start:end])
        start = end
        if kind == b"IEND" or start >= len(data):
            return Container(format="PNG", data=b"".join(parts), exif=exif)
    raise UnreadableImage(f"the PNG image has over {MAX_PARTS:,} chunks: re-encode it")
