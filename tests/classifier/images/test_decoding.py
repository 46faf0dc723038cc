from __future__ import annotations

import io
import os
import re
import socket
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from classifier.errors import ImageError, ImageTooLarge, NotAnImage, UnreadableImage
from classifier.images import IMAGE_SUFFIXES, LIMITS, DecodedImage, Limits, decode_image, read_image
from classifier.images.memory import bytes_to_decode
from classifier.types import Interpolation, Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
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
    """Return an image with smooth and busy parts, of which no two pixels' surroundings are alike."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    waves = np.stack([x * 200 // width, y * 200 // height, (x * 7 + y * 3) % 200], axis=-1)
    return Image.fromarray((waves + noise).astype(np.uint8))


def png_chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """Return a PNG written by hand: also of the kinds that Pillow doesn't write. Each row begins with a 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


class TestFormats:
    @pytest.mark.parametrize(
        ("format", "mode", "colour", "expected"),
        [
            ("PNG", "1", 1, (255, 255, 255)),
            ("PNG", "L", 77, (77, 77, 77)),
            ("PNG", "LA", (77, 255), (77, 77, 77)),
            ("PNG", "LA", (77, 0), PALE_BLUE),
            ("PNG", "RGB", (1, 2, 3), (1, 2, 3)),
            ("PNG", "RGBA", (1, 2, 3, 255), (1, 2, 3)),
            ("PNG", "RGBA", (1, 2, 3, 0), PALE_BLUE),
            ("PNG", "I;16", 0xABCD, (0xAB, 0xAB, 0xAB)),
            ("BMP", "1", 1, (255, 255, 255)),
            ("BMP", "L", 77, (77, 77, 77)),
            ("BMP", "RGB", (1, 2, 3), (1, 2, 3)),
            ("WebP", "RGB", (1, 2, 3), (1, 2, 3)),
            ("WebP", "RGBA", (1, 2, 3, 255), (1, 2, 3)),
            ("WebP", "RGBA", (1, 2, 3, 0), PALE_BLUE),
        ],
    )
    def test_lossless(self, format: str, mode: str, colour: object, expected: tuple[int, int, int]) -> None:
        """Whatever way a format stores one colour, every pixel becomes that colour, exactly."""
        options = {"lossless": True, "exact": True} if format == "WebP" else {}
        decoded = decode_image(encode(Image.new(mode, (40, 30), colour), format, **options), SMALL)
        assert (decoded.width, decoded.height, decoded.format) == (40, 30, format)
        assert decoded.pixels.shape == (28, 28, 3)
        assert decoded.pixels.dtype == np.uint8
        assert (decoded.pixels == expected).all()

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("L", 77, (77, 77, 77)),
            ("RGB", (200, 30, 90), (200, 30, 90)),
            # Pillow writes CMYK as Adobe does, inverted. Read as it stands, this yellow would be near black.
            ("CMYK", (0, 0, 255, 0), (255, 255, 0)),
            ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
            ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ],
    )
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg(self, mode: str, colour: object, expected: tuple[int, int, int], *, progressive: bool) -> None:
        """A JPEG of one colour gives that colour, within its quantisation."""
        data = encode(Image.new(mode, (40, 30), colour), "JPEG", quality=95, progressive=progressive)
        decoded = decode_image(data, SMALL)
        assert (decoded.width, decoded.height, decoded.format) == (40, 30, "JPEG")
        assert np.abs(decoded.pixels.astype(int) - expected).max() <= 2

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            pytest.param(png(2, 2, 1, 0, b"\0\x40\0\x80"), [[0, 255], [255, 0]], id="1-bit grey"),
            pytest.param(png(2, 2, 2, 0, b"\0\x10\0\xb0"), [[0, 85], [170, 255]], id="2-bit grey"),
            pytest.param(png(2, 2, 4, 0, b"\0\x0f\0\x5a"), [[0, 255], [85, 170]], id="4-bit grey"),
            pytest.param(
                png(2, 2, 16, 0, b"\0\x00\x00\x00\xff\0\x80\x80\xff\xff"), [[0, 0], [128, 255]], id="16-bit grey"
            ),
            pytest.param(
                png(2, 2, 16, 2, b"\0" + b"\x00\x00\x00\xff" * 3 + b"\0" + b"\x80\x80\xff\xff" * 3),
                [[(0, 0, 0), (0, 0, 0)], [(128, 255, 128), (255, 128, 255)]],
                id="16-bit colour",
            ),
            pytest.param(
                png(2, 2, 2, 3, b"\0\x10\0\xb0", png_chunk(b"PLTE", bytes(range(12)))),
                [[(0, 1, 2), (3, 4, 5)], [(6, 7, 8), (9, 10, 11)]],
                id="palette",
            ),
        ],
    )
    def test_bit_depths(self, data: bytes, expected: list[object]) -> None:
        """A PNG's levels fill 0…255 at any depth; of 16 bits the high byte counts, in grey as in colour."""
        pixels = decode_image(data, as_stored(2)).pixels
        wanted = np.array(expected)
        assert (pixels == (wanted if wanted.ndim == 3 else wanted[..., None])).all()

    def test_first_frame_of_an_animation(self) -> None:
        """Of an animation the first frame counts."""
        frames = [Image.new("RGB", (30, 30), colour) for colour in ((10, 20, 30), (200, 0, 0), (0, 200, 0))]
        for format, options in (("WebP", {"lossless": True, "exact": True}), ("PNG", {})):
            data = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
            assert (decode_image(data, SMALL).pixels == (10, 20, 30)).all()

    def test_further_pictures_behind_a_jpeg(self) -> None:
        """What a phone appends to a JPEG, a second picture or a film, changes nothing."""
        data = encode(photo(40, 30), "JPEG")
        several = encode(photo(40, 30), "MPO", save_all=True, append_images=[photo(40, 30, seed=1)])
        assert several != data
        expected = decode_image(data, SMALL)
        for appended in (several, data + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 20):
            decoded = decode_image(appended, SMALL)
            assert decoded.format == "JPEG"
            assert (decoded.pixels == expected.pixels).all()

    def test_name_is_not_asked(self, tmp_path: Path) -> None:
        """A PNG called .jpg is a PNG."""
        path = tmp_path / "wrong.jpg"
        path.write_bytes(encode(Image.new("RGB", (30, 30), (1, 2, 3)), "PNG"))
        assert decode_image(read_image(path), SMALL).format == "PNG"

    def test_suffixes(self) -> None:
        """Every format's usual suffix is known, in lower case."""
        assert {".jpg", ".jpeg", ".png", ".webp", ".bmp"} <= IMAGE_SUFFIXES
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


class TestTransparency:
    @pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 204), (102, 153), (128, 127), (255, 0)])
    def test_black_over_white(self, alpha: int, expected: int) -> None:
        """An alpha of a/255 over white lets through exactly what is left of white; white is the default background."""
        data = encode(Image.new("RGBA", (30, 30), (0, 0, 0, alpha)), "PNG")
        preprocessing = Preprocessing(resize_size=28, crop_size=28)
        assert (decode_image(data, preprocessing).pixels == expected).all()

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            pytest.param(
                png(2, 2, 2, 3, b"\0\x10\0\xb0", png_chunk(b"PLTE", bytes(range(12))), png_chunk(b"tRNS", b"\xff\0")),
                [[(0, 1, 2), PALE_BLUE], [(6, 7, 8), (9, 10, 11)]],
                id="one entry of a palette",
            ),
            pytest.param(
                png(2, 2, 8, 3, b"\0\0\1\0\0\1", png_chunk(b"PLTE", bytes(6)), png_chunk(b"tRNS", b"\x33\xcc")),
                [[(160, 176, 204), (40, 44, 51)], [(160, 176, 204), (40, 44, 51)]],
                id="half-transparent entries of a palette",
            ),
            pytest.param(
                png(2, 2, 1, 0, b"\0\x40\0\x80", png_chunk(b"tRNS", b"\0\1")),
                [[(0, 0, 0), PALE_BLUE], [PALE_BLUE, (0, 0, 0)]],
                id="a level of 1-bit grey",
            ),
            pytest.param(
                png(2, 2, 2, 0, b"\0\x10\0\xb0", png_chunk(b"tRNS", b"\0\2")),
                [[(0, 0, 0), (85, 85, 85)], [PALE_BLUE, (255, 255, 255)]],
                id="a level of 2-bit grey",
            ),
            pytest.param(
                png(2, 2, 4, 0, b"\0\x0f\0\x5a", png_chunk(b"tRNS", b"\0\5")),
                [[(0, 0, 0), (255, 255, 255)], [PALE_BLUE, (170, 170, 170)]],
                id="a level of 4-bit grey",
            ),
            pytest.param(
                png(2, 2, 16, 0, b"\0\x05\x00\x05\x01\0\x00\x05\xff\xff", png_chunk(b"tRNS", b"\5\0")),
                [[PALE_BLUE, (5, 5, 5)], [(0, 0, 0), (255, 255, 255)]],
                id="a level of 16-bit grey",
            ),
            pytest.param(
                png(2, 2, 8, 2, b"\0\1\2\3\4\5\6\0\1\2\4\4\5\6", png_chunk(b"tRNS", b"\0\4\0\5\0\6")),
                [[(1, 2, 3), PALE_BLUE], [(1, 2, 4), PALE_BLUE]],
                id="an 8-bit colour",
            ),
            pytest.param(
                png(
                    2,
                    2,
                    16,
                    2,
                    b"\0\1\xff\2\xff\3\xff\4\xff\5\xff\6\xff" * 2,
                    png_chunk(b"tRNS", b"\4\xff\5\xff\6\xff"),
                ),
                [[(1, 2, 3), PALE_BLUE], [(1, 2, 3), PALE_BLUE]],
                id="a 16-bit colour",
            ),
        ],
    )
    def test_png_transparency(self, data: bytes, expected: list[object]) -> None:
        """A PNG's tRNS chunk is honoured for every kind of pixel, at the depth of the file."""
        assert (decode_image(data, as_stored(2)).pixels == np.array(expected)).all()


def stored_as(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return the pixels that a file of that EXIF orientation stores (CIPA DC-008, 4.6.4: row 0 and column 0)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]


def exif_block(orientation: int, order: str = ">") -> bytes:
    """Return an EXIF block with two entries before the orientation."""
    entries = [
        (0x0100, 4, 1, 640),
        (0x010F, 2, 3, 0x41420000),
        (0x0112, 3, 1, orientation << 16 if order == ">" else orientation),
    ]
    head = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + bytes(4)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WebP", {"lossless": True})])
    def test_lossless(self, orientation: int, format: str, options: dict[str, object]) -> None:
        """An image of any EXIF orientation gives the pixels of the upright image, bit for bit."""
        upright = np.asarray(photo(43, 31))
        image = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
        decoded = decode_image(encode(image, format, exif=exif_block(orientation), **options), SMALL)
        assert (decoded.width, decoded.height) == (43, 31)
        assert (decoded.pixels == decode_image(encode(photo(43, 31), "PNG"), SMALL).pixels).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg(self, orientation: int) -> None:
        """So does a JPEG's, compared with its own pixels turned upright."""
        turned = Image.fromarray(np.ascontiguousarray(stored_as(np.asarray(photo(43, 31)), orientation)))
        plain = encode(turned, "JPEG", quality=95)
        pixels = np.asarray(Image.open(io.BytesIO(plain)))
        # Turning a pattern to what its orientation n would have stored, and n back: 6 and 8 undo each other.
        upright = stored_as(pixels, {6: 8, 8: 6}.get(orientation, orientation))
        decoded = decode_image(encode(turned, "JPEG", quality=95, exif=exif_block(orientation)), SMALL)
        expected = decode_image(encode(Image.fromarray(np.ascontiguousarray(upright)), "PNG"), SMALL)
        assert (decoded.width, decoded.height) == (43, 31) == (expected.width, expected.height)
        assert (decoded.pixels == expected.pixels).all()


class TestResize:
    @pytest.mark.parametrize(
        ("width", "height", "resize_size", "crop_size"),
        [
            *[(500, 375, 256, 224), (375, 500, 256, 224), (100, 100, 256, 224), (28, 28, 28, 28), (257, 256, 256, 224)],
            *[
                (1, 1, 64, 56),
                (3, 200, 32, 31),
                (200, 3, 32, 31),
                (640, 427, 232, 224),
                (33, 77, 40, 33),
                (640, 427, 33, 32),
            ],
        ],
    )
    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
    def test_equal_to_torchvision(
        self, width: int, height: int, resize_size: int, crop_size: int, interpolation: Interpolation
    ) -> None:
        """Resize and crop give the pixels of torchvision's transforms on PIL images, bit for bit."""
        pytest.importorskip("torch")
        pytest.importorskip("training")
        from training.torchvision_compat import import_torchvision

        v2 = import_torchvision().transforms.v2
        image = photo(width, height)
        mode = v2.InterpolationMode(interpolation)
        expected = v2.Compose([v2.Resize(resize_size, mode), v2.CenterCrop(crop_size)])(image)
        preprocessing = Preprocessing(resize_size=resize_size, crop_size=crop_size, interpolation=interpolation)
        assert (decode_image(encode(image, "PNG"), preprocessing).pixels == np.asarray(expected)).all()

    @pytest.mark.parametrize(
        ("width", "height", "resized", "left", "top"),
        [
            (500, 375, (341, 256), 58, 16),  # 58.5 goes to the even side
            (375, 500, (256, 341), 16, 58),
            (400, 267, (383, 256), 80, 16),  # 383.5 is cut; 79.5 goes to the even side
            (267, 400, (256, 383), 16, 80),
            (256, 256, (256, 256), 16, 16),
        ],
    )
    def test_rounding(self, width: int, height: int, resized: tuple[int, int], left: int, top: int) -> None:
        """The longer side is cut to whole pixels, and the crop's halves are rounded to even, as torchvision does it."""
        image = photo(width, height)
        whole = image.resize(resized, Image.Resampling.BILINEAR)
        expected = np.asarray(whole)[top : top + 224, left : left + 224]
        assert (decode_image(encode(image, "BMP"), PHOTO).pixels == expected).all()

    def test_antialiased(self) -> None:
        """A fine chequerboard made small becomes grey, not black and white dots."""
        board = Image.fromarray((np.indices((560, 560)).sum(axis=0) % 2 * 255).astype(np.uint8))
        pixels = decode_image(encode(board, "PNG"), SMALL).pixels
        assert np.abs(pixels.astype(int) - 127).max() <= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 3)])
    def test_tiny_and_thin(self, size: tuple[int, int]) -> None:
        """An image of a pixel's width is an image."""
        decoded = decode_image(encode(Image.new("RGB", size, (9, 8, 7)), "PNG"), PHOTO)
        assert (decoded.width, decoded.height) == size
        assert (decoded.pixels == (9, 8, 7)).all()

    def test_memory_is_the_callers(self) -> None:
        """The pixels may be written to, as torch.from_numpy wants it, without changing the next answer."""
        data = encode(photo(40, 30), "PNG")
        first = decode_image(data, SMALL).pixels
        expected = first.copy()
        first[:] = 0
        assert first.flags.c_contiguous
        assert (decode_image(data, SMALL).pixels == expected).all()


class TestScaledDecode:
    SCALED = Preprocessing(resize_size=32, crop_size=28, decode="scaled")
    EXACT = Preprocessing(resize_size=32, crop_size=28)

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_large_jpeg(self, orientation: int) -> None:
        """A large JPEG, scaled while it is decoded, differs, but hardly; its reported size is the real one."""
        data = encode(photo(515, 387), "JPEG", quality=90, exif=exif_block(orientation))
        scaled, exact = decode_image(data, self.SCALED), decode_image(data, self.EXACT)
        assert (scaled.width, scaled.height) == (exact.width, exact.height)
        assert {scaled.width, scaled.height} == {515, 387}
        difference = np.abs(scaled.pixels.astype(int) - exact.pixels.astype(int))
        assert 0 < difference.mean() < 1.5

    @pytest.mark.parametrize(("size", "format"), [((127, 127), "JPEG"), ((515, 387), "PNG"), ((515, 387), "WebP")])
    def test_the_rest(self, size: tuple[int, int], format: str) -> None:
        """A JPEG under four times the target, and every other format, is decoded exactly."""
        data = encode(photo(*size), format)
        assert (decode_image(data, self.SCALED).pixels == decode_image(data, self.EXACT).pixels).all()

    @pytest.mark.parametrize("size", [(128, 128), (129, 900), (255, 300), (256, 256), (1023, 511), (2000, 513)])
    def test_never_below_twice_the_target(self, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        """What is resized has at least twice the pixels on a side that are wanted, and fewer than the photograph."""
        resize, sides = Image.Image.resize, []

        def spy(image: Image.Image, *args: Any, **options: Any) -> Image.Image:
            sides.append(min(image.size))
            return resize(image, *args, **options)

        data = encode(photo(*size), "JPEG")
        monkeypatch.setattr(Image.Image, "resize", spy)
        decode_image(data, self.SCALED)
        assert 2 * 32 <= sides[0] < min(size)

    def test_a_large_photograph_is_decoded_sooner(self) -> None:
        """In less CPU time than exactly, which is what it is for."""
        data = encode(photo(1600, 1200), "JPEG", quality=90)

        def cpu_s(preprocessing: Preprocessing) -> float:
            started = time.thread_time()
            decode_image(data, preprocessing)
            return time.thread_time() - started

        scaled, exact = (min(cpu_s(each) for _ in range(5)) for each in (self.SCALED, self.EXACT))
        assert scaled < exact


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


class TestErrors:
    def test_empty(self) -> None:
        """An image without a byte says so."""
        with pytest.raises(UnreadableImage, match="empty") as caught:
            decode_image(b"", SMALL)
        assert caught.value.reason == "empty"

    @pytest.mark.parametrize("name", FAKES)
    def test_not_an_image(self, name: str) -> None:
        """What is no image of an accepted format is told so, by its name where that is known, with what is accepted."""
        data, words = FAKES[name]
        with pytest.raises(NotAnImage, match=rf"{words}.*JPEG, PNG, WebP and BMP") as caught:
            decode_image(data, SMALL)
        assert caught.value.reason == "not_an_image"

    @pytest.mark.parametrize("name", GOOD)
    def test_good(self, name: str) -> None:
        """The images that the tests below damage are good."""
        assert decode_image(GOOD[name], SMALL).format == name.partition(",")[0]

    @pytest.mark.parametrize("name", GOOD)
    def test_truncated(self, name: str) -> None:
        """An image cut anywhere among its pixels is an error, never an answer about the part of it that is there."""
        data = GOOD[name]
        for part in (0.1, 0.25, 0.4):  # An animated PNG's second frame may be missing.
            with pytest.raises(ImageError) as caught:
                decode_image(data[: int(len(data) * part)], SMALL)
            assert caught.value.reason in {"unreadable", "not_an_image"}

    def test_one_sentence(self) -> None:
        """The message of a corrupt image names its format and what to do."""
        data = GOOD["PNG"]
        with pytest.raises(UnreadableImage, match=r"^the PNG image can't be decoded \(.+\): copy or export it again$"):
            decode_image(data[: len(data) // 2], SMALL)

    def test_a_kept_error_keeps_no_pixels(self) -> None:
        """Errors can be collected by the thousand: none holds on to an image that was decoded half."""
        data = encode(photo(300, 300), "PNG")
        with pytest.raises(UnreadableImage) as caught:
            decode_image(data[: len(data) // 2], SMALL)
        assert caught.value.__cause__ is not None
        frames = traceback.walk_tb(caught.value.__cause__.__traceback__)
        assert not [value for frame, _ in frames for value in frame.f_locals.values() if isinstance(value, Image.Image)]

    def test_other_decoders_are_out_of_reach(self) -> None:
        """No other format's decoder is as much as imported; EPS would run Ghostscript."""
        program = f"""if True:
            import sys
            from classifier.errors import NotAnImage
            from classifier.images import decode_image
            from classifier.types import Preprocessing
            for data in {[data for data, _ in FAKES.values()]}:
                try:
                    decode_image(data, Preprocessing(resize_size=28, crop_size=28))
                except NotAnImage:
                    print(*(name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")))
        """
        done = subprocess.run(
            [sys.executable, "-"], input=program, capture_output=True, text=True, check=True, cwd=ROOT
        )
        lines = done.stdout.splitlines()
        assert len(lines) == len(FAKES)
        assert {name for line in lines for name in line.split()} == {
            f"PIL.{name}ImagePlugin" for name in ("Bmp", "Jpeg", "Png", "WebP")
        }

    def test_process_wide_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another user of Pillow in the process neither loosens nor tightens what is accepted, nor is it disturbed."""
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        decode_image(GOOD["JPEG"], SMALL)
        assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        for name in ("JPEG", "PNG", "BMP"):
            decode_image(GOOD[name], Preprocessing(resize_size=8, crop_size=8))


class TestLimits:
    def test_bytes(self) -> None:
        """A file over the limit is refused, one at the limit is not."""
        data = GOOD["BMP"]
        decode_image(data, SMALL, Limits(max_bytes=len(data)))
        with pytest.raises(ImageTooLarge, match=r"3,6\d\d bytes.*3,6\d\d") as caught:
            decode_image(data, SMALL, Limits(max_bytes=len(data) - 1))
        assert caught.value.reason == "too_large"

    @pytest.mark.parametrize(
        "limits",
        [
            Limits(max_pixels=40 * 30 - 1),
            Limits(max_side=39),
            Limits(max_resized_pixels=37 * 28 - 1),
            Limits(max_memory=9 * 40 * 30),
        ],
    )
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "BMP"])
    def test_pixels(self, name: str, limits: Limits) -> None:
        """So is an image over a limit on pixels, for every format."""
        decode_image(GOOD[name], SMALL, Limits(max_pixels=40 * 30, max_side=40, max_resized_pixels=37 * 28))
        with pytest.raises(ImageTooLarge, match=r"of (40 × 30|30 × 40) pixels"):
            decode_image(GOOD[name], SMALL, limits)

    @pytest.mark.parametrize(("width", "height"), [(10, 63_498), (63_498, 10), (30_000, 1), (1, 65_535)])
    def test_long_and_thin(self, width: int, height: int) -> None:
        """A few hundred bytes don't become gigabytes by being resized; where the model is small they are an image."""
        data = encode(Image.new("L", (width, height), 50), "PNG")
        with pytest.raises(ImageTooLarge, match="too long and thin"):
            decode_image(data, PHOTO)
        assert (decode_image(data, Preprocessing(resize_size=8, crop_size=8)).pixels == 50).all()

    def test_webp_of_few_bytes(self) -> None:
        """A format that needs more memory for a pixel gets fewer of them: this is a kilobyte that would take 2 GB."""
        data = encode(Image.new("RGBA", (10_000, 9_999), (1, 2, 3, 128)), "WEBP", lossless=True)
        assert len(data) < 10_000
        with pytest.raises(ImageTooLarge, match=r"10,000 × 9,999 pixels can take [\d,]+ bytes of memory"):
            decode_image(data, SMALL)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
    def test_threads_share_the_memory(self, tmp_path: Path) -> None:
        """Images that come at the same time take turns where there is no memory for all of them."""
        image = Image.new("RGBA", (4000, 2000), (1, 2, 3, 128))  # 160 MB
        (tmp_path / "image.webp").write_bytes(encode(image, "WEBP", lossless=True))
        code = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from classifier.images import decoding as images
from classifier.images.memory import MemoryBudget
from classifier.types import Preprocessing
data = Path({str(tmp_path / "image.webp")!r}).read_bytes()
budget = MemoryBudget(350_000_000)
images.decoding_memory = lambda least: budget
def memory(field):
    [line] = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1])
before = memory("VmRSS")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: images.decode_image(data, Preprocessing(resize_size=8, crop_size=8)), range(8)))
print(memory("VmHWM") - before)
"""
        # Or glibc keeps blocks that were given back, for later.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert 200_000 < int(done.stdout) < 400_000  # KiB

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(png(60_000, 60_000, 8, 2, b""), id="PNG"),
            pytest.param(png(2**31 - 1, 2**31 - 1, 8, 2, b""), id="PNG, largest"),
            pytest.param(GOOD["JPEG"].replace(struct.pack(">HH", 30, 40), b"\xff\xff\xff\xff"), id="JPEG"),
            pytest.param(GOOD["BMP"].replace(struct.pack("<II", 40, 30), struct.pack("<II", 60_000, 60_000)), id="BMP"),
            pytest.param(GOOD["WebP"].replace(b"\x27\0\0\x1d\0\0", b"\xff\x3f\0\xff\x3f\0", 1), id="WebP"),
        ],
    )
    def test_before_decoding(self, data: bytes) -> None:
        """The size that a header claims is checked before there is memory for it: these have no such pixels."""
        with pytest.raises(ImageTooLarge, match=r"over the limit|too large to be decoded"):
            decode_image(data, SMALL)


class TestAnyBytes:
    """Whatever the bytes: an image, or one error of ours, and always the same."""

    def check(self, data: bytes) -> None:
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            outcomes = [self.outcome(data), self.outcome(data)]
        assert outcomes[0] == outcomes[1]
        assert not leaked
        if isinstance(outcomes[0][0], type):
            _, reason, message = outcomes[0]
            assert re.fullmatch("[a-z_]+", str(reason))
            assert str(message).isprintable()

    def outcome(self, data: bytes) -> tuple[object, ...]:
        try:
            decoded = decode_image(data, SMALL, Limits(max_pixels=1_000_000, max_resized_pixels=1_000_000))
        except ImageError as error:
            return type(error), error.reason, str(error)
        assert isinstance(decoded, DecodedImage)
        assert decoded.pixels.shape == (28, 28, 3)
        assert decoded.pixels.dtype == np.uint8
        return decoded.width, decoded.height, decoded.format, decoded.pixels.tobytes()

    @settings(max_examples=600, deadline=None)
    @given(data=st.data())
    def test_damaged_images(self, data: st.DataObject) -> None:
        """Good images with bytes changed, cut out, put in and repeated."""
        image = bytearray(data.draw(st.sampled_from(sorted(GOOD.values()))))
        for _ in range(data.draw(st.integers(1, 4))):
            # Headers are where the damage is worst: half of it goes there.
            end = data.draw(st.sampled_from([min(80, len(image)), len(image)]))
            at = data.draw(st.integers(0, end))
            match data.draw(st.sampled_from(["change", "insert", "cut", "truncate", "repeat"])):
                case "change":
                    new = data.draw(st.binary(min_size=1, max_size=4))
                    image[at : at + len(new)] = new
                case "insert":
                    image[at:at] = data.draw(st.binary(min_size=1, max_size=16))
                case "cut":
                    del image[at : at + data.draw(st.integers(1, 64))]
                case "truncate":
                    del image[at:]
                case "repeat":
                    image[at:at] = image[at : at + data.draw(st.integers(1, 200))]
        self.check(bytes(image))

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_png_with_a_right_checksum(self, data: st.DataObject) -> None:
        """PNGs whose checksums are right and whose contents are not: what changed bytes alone never reach."""
        number = st.integers(0, 300)
        chunks = data.draw(
            st.lists(
                st.builds(
                    png_chunk, st.sampled_from([b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"iCCP"]), st.binary()
                ),
                max_size=4,
            )
        )
        header = [
            data.draw(number),
            data.draw(number),
            data.draw(st.sampled_from([1, 2, 4, 8, 16])),
            data.draw(st.integers(0, 6)),
        ]
        self.check(
            png(*header, data.draw(st.binary(max_size=2000)) + bytes(data.draw(st.integers(0, 200_000))), *chunks)
        )

    @settings(max_examples=200, deadline=None)
    @given(start=st.sampled_from([data[:size] for data in GOOD.values() for size in (3, 12, 30)]), rest=st.binary())
    def test_noise_behind_a_signature(self, start: bytes, rest: bytes) -> None:
        """Noise behind what a good image begins with."""
        self.check(start + rest)


def test_same_pixels_from_every_thread() -> None:
    """Images decoded in many threads at once are those decoded one after another."""
    images = [*GOOD.values(), *(encode(photo(320, 240, seed), "JPEG") for seed in range(10))] * 4
    expected = [decode_image(data, PHOTO).pixels.tobytes() for data in images]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda data: decode_image(data, PHOTO).pixels.tobytes(), images)) == expected


class TestReadImage:
    def test_bytes(self, tmp_path: Path) -> None:
        """A file's bytes come back as they are, also through a link and from an empty file."""
        (tmp_path / "image").write_bytes(GOOD["PNG"])
        (tmp_path / "link").symlink_to("image")
        (tmp_path / "empty").touch()
        assert read_image(tmp_path / "image") == GOOD["PNG"] == read_image(tmp_path / "link")
        assert read_image(tmp_path / "empty") == b""

    @pytest.mark.parametrize("name", ["missing.png", "file.png/inside.png", "dangling.png"])
    def test_missing(self, tmp_path: Path, name: str) -> None:
        """What isn't there is named, with its path."""
        (tmp_path / "file.png").touch()
        (tmp_path / "dangling.png").symlink_to("nowhere")
        with pytest.raises(UnreadableImage, match=rf"{name}' does not exist") as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == "missing"

    def test_not_a_file(self, tmp_path: Path) -> None:
        """A folder, a pipe that nobody writes to and a device are refused at once."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path(os.devnull), Path("/dev/zero")):
            with pytest.raises(UnreadableImage, match="not a regular file") as caught:
                read_image(path)
            assert caught.value.reason == "not_a_file"

    def test_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket can't be opened at all."""
        monkeypatch.chdir(tmp_path)  # A socket's path may have 107 bytes.
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            with pytest.raises(UnreadableImage, match="can't be read"):
                read_image(Path("socket"))

    def test_permission_denied(self, tmp_path: Path) -> None:
        """A file that this user may not read says so."""
        path = tmp_path / "secret.png"
        path.write_bytes(GOOD["PNG"])
        path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # The superuser may read everything: nobody may not.
        try:
            with pytest.raises(UnreadableImage, match=r"secret\.png' may not be read") as caught:
                read_image(path)
        finally:
            os.seteuid(user)
        assert caught.value.reason == "permission_denied"

    @pytest.mark.parametrize("name", ["a\0b.png", "x" * 300])
    def test_impossible_name(self, tmp_path: Path, name: str) -> None:
        """A name that no file can have is an error like the others."""
        with pytest.raises(UnreadableImage, match="can't be read"):
            read_image(tmp_path / name)

    def test_awkward_name(self, tmp_path: Path) -> None:
        """A name with a line break, or with bytes that are no text, can be printed in a message of one line."""
        for name in ("line\nbreak.png", os.fsdecode(b"caf\xe9.png")):
            with pytest.raises(UnreadableImage) as caught:
                read_image(tmp_path / name)
            assert str(caught.value).isprintable()
            assert str(caught.value).encode()

    def test_too_large(self, tmp_path: Path) -> None:
        """A file over the limit is refused by its size, before a byte is read."""
        path = tmp_path / "large.bmp"
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
        with pytest.raises(ImageTooLarge, match=r"large\.bmp' has 10,737,418,240 bytes, over the limit of 67,108,864"):
            read_image(path)
        path.write_bytes(bytes(100))
        assert len(read_image(path, Limits(max_bytes=100))) == 100

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
    def test_too_large_without_saying_so(self) -> None:
        """A file that says it has 0 bytes, as those of the kernel do, is read up to the limit only."""
        with pytest.raises(ImageTooLarge, match="has 101 bytes"):
            read_image(Path("/proc/self/maps"), Limits(max_bytes=100))

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        """Ten thousand bad files don't use up the descriptors of the process."""
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - listing a folder of links that change
        for path in (tmp_path, Path("/dev/zero")):
            with pytest.raises(UnreadableImage):
                read_image(path)
        assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208 - likewise


def test_default_limits() -> None:
    """The documented defaults: 64 MiB, 100 megapixels, 75 of a WebP."""
    assert (LIMITS.max_bytes, LIMITS.max_pixels) == (67_108_864, 100_000_000)
    for format, pixels in {"JPEG": 100_000_000, "PNG": 100_000_000, "BMP": 100_000_000, "WebP": 74_900_000}.items():
        assert bytes_to_decode(format, (pixels, 1), (256, 256)) <= LIMITS.max_memory
    assert bytes_to_decode("WebP", (75_000_001, 1), (256, 256)) > LIMITS.max_memory
