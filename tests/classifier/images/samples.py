"""Images of every format and kind, made on the fly."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from classifier.types import Preprocessing

PALE_BLUE = (200, 220, 255)
PHOTO = Preprocessing(resize_size=256, crop_size=224)
SMALL = Preprocessing(resize_size=28, crop_size=28, background=PALE_BLUE)


def as_stored(size: int) -> Preprocessing:
    """Return the preprocessing that leaves a square image of `size` as it is."""
    return Preprocessing(resize_size=size, crop_size=size, background=PALE_BLUE)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image with smooth and busy parts, in which no two neighbourhoods are alike."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    waves = np.stack([x * 200 // width, y * 200 // height, (x * 7 + y * 3) % 200], axis=-1)
    return Image.fromarray((waves + noise).astype(np.uint8))


def png_chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """Return a PNG written by hand, also of kinds that Pillow can't write. Each row begins with a 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def exif_block(orientation: int, order: str = ">") -> bytes:
    """Return an EXIF block with two entries before the orientation."""
    entries = [
        (0x0100, 4, 1, 640),
        (0x010F, 2, 3, 0x41420000),
        (0x0112, 3, 1, orientation << 16 if order == ">" else orientation),
    ]
    head = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + bytes(4)


def exif(orientation: int, *, type: int = 3, order: str = ">") -> bytes:
    signature = {">": b"MM\0*", "<": b"II*\0"}[order]
    return signature + struct.pack(f"{order}IHHHIHHI", 8, 1, 274, type, 1, orientation, 0, 0)


FAKES = {
    "text": (b"This is no image.\n" * 20, "not an image"),
    "text that begins like a BMP": (b"BMW and other cars, a list of many lines.\n" * 9, "not an image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "zip": (b"PK\3\4" + bytes(200), "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "one byte": (b"\xff", "not an image"),
    "GIF": (encode(Image.new("L", (9, 9)), "GIF"), "is GIF"),
    "TIFF": (encode(Image.new("L", (9, 9)), "TIFF"), "is TIFF"),
    "big-endian TIFF": (b"MM\0*" + bytes(99), "is TIFF"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is EPS"),
    "PDF": (b"%PDF-1.7\n", "is PDF"),
    "ICO": (encode(Image.new("RGBA", (16, 16)), "ICO"), "is ICO"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "is JPEG 2000"),
    "AVIF": (b"\0\0\0\x20ftypavif" + bytes(99), "is AVIF"),
    "HEIC": (b"\0\0\0\x20ftypheic" + bytes(99), "is HEIC"),
    "WAVE": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(99), "not an image"),
}


GOOD = {
    "JPEG": encode(photo(40, 30), "JPEG"),
    "JPEG, progressive": encode(photo(40, 30), "JPEG", progressive=True, exif=exif_block(6)),
    "JPEG, CMYK": encode(photo(40, 30).convert("CMYK"), "JPEG"),
    "PNG": encode(photo(40, 30), "PNG", exif=exif_block(8)),
    "PNG, palette": encode(photo(40, 30).quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "PNG, 16 bits": png(40, 30, 16, 0, bytes(81 * 30), png_chunk(b"tRNS", b"\0\0")),
    "PNG, alpha": encode(photo(40, 30).convert("RGBA"), "PNG"),
    "PNG, animated": encode(photo(40, 30), "PNG", save_all=True, append_images=[photo(40, 30, seed=1)]),
    "WebP": encode(photo(40, 30), "WebP", exif=exif_block(3)),
    "WebP, lossless": encode(photo(40, 30).convert("RGBA"), "WebP", lossless=True),
    "WebP, animated": encode(photo(40, 30), "WebP", save_all=True, append_images=[photo(40, 30, seed=1)]),
    "BMP": encode(photo(40, 30), "BMP"),
    "BMP, palette": encode(photo(40, 30).quantize(16), "BMP"),
    # 8 pixels, run-length encoded: 4 of level 1, end of line, 4 of level 2, end of image.
    "BMP, run lengths": b"BM"
    + struct.pack("<IHHI", 74, 0, 0, 62)
    + struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, 12, 0, 0, 2, 0)
    + bytes([0, 0, 255, 0, 0, 255, 0, 0])
    + bytes([4, 1, 0, 0, 4, 0, 0, 1]),
}
