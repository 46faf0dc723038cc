"""Colours: whatever a file stores, every pixel becomes 8-bit RGB."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from classifier.images import decode_image
from classifier.images.colours import _say_dark
from classifier.types import Preprocessing
from tests.classifier.images.samples import PALE_BLUE, SMALL, as_stored, encode, photo, png, png_chunk


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
        """However a lossless format stores a colour, every pixel becomes exactly that colour."""
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
        """A PNG's levels fill 0…255 at any depth; 16-bit levels keep their high byte, in grey and in colour."""
        pixels = decode_image(data, as_stored(2)).pixels
        wanted = np.array(expected)
        assert (pixels == (wanted if wanted.ndim == 3 else wanted[..., None])).all()


class TestTransparency:
    @pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 204), (102, 153), (128, 127), (255, 0)])
    def test_black_over_white(self, alpha: int, expected: int) -> None:
        """Black with an alpha over white, the default background, gives the exact grey."""
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


def bmp_of_32_bits(colours: np.ndarray, alpha: int) -> bytes:
    """Return a BMP with an alpha mask, as the Windows clipboard makes them. `colours` is RGB, uint8 `[H, W, 3]`."""
    height, width, _ = colours.shape
    stored = np.concatenate([colours[::-1, :, ::-1], np.full((height, width, 1), alpha, dtype=np.uint8)], axis=-1)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    sizes = (124, width, height, 1, 32, 3, stored.nbytes, 2835, 2835, 0, 0)
    header = struct.pack("<IiiHHIIiiII", *sizes) + masks + b"BGRs" + bytes(48) + struct.pack("<4I", 4, 0, 0, 0)
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + stored.nbytes, 0, 0, offset) + header + stored.tobytes()


class TestBmpAlpha:
    @pytest.mark.reported("bmp-with-zero-alpha")
    def test_alpha_of_0_everywhere_is_opaque(self) -> None:
        """Windows leaves the fourth byte unset: such an image is its colours, not an empty page."""
        colours = np.asarray(photo(30, 30))
        pixels = decode_image(bmp_of_32_bits(colours, alpha=0), as_stored(30)).pixels
        np.testing.assert_array_equal(pixels, colours)

    def test_other_alpha_is_transparency(self) -> None:
        colours = np.zeros((30, 30, 3), dtype=np.uint8)
        pixels = decode_image(bmp_of_32_bits(colours, alpha=51), Preprocessing(resize_size=30, crop_size=30)).pixels
        assert (pixels == 204).all()

    def test_a_png_of_alpha_0_is_transparent(self) -> None:
        pixels = decode_image(encode(Image.new("RGBA", (30, 30), (1, 2, 3, 0)), "PNG"), as_stored(30)).pixels
        assert (pixels == PALE_BLUE).all()


class TestDark16Bits:
    @pytest.fixture(autouse=True)
    def first_in_its_process(self) -> None:
        _say_dark.cache_clear()

    @pytest.mark.parametrize(
        ("data", "is_said"),
        [
            pytest.param(png(2, 1, 16, 0, b"\0\x0f\xff\x00\x01"), True, id="grey of 12 bits"),
            pytest.param(png(2, 1, 16, 2, b"\0" + b"\x0f\xff" * 6), True, id="colour of 12 bits"),
            pytest.param(png(2, 1, 16, 4, b"\0" + b"\x0f\xff\xff\xff" * 2), True, id="grey of 12 bits with alpha"),
            pytest.param(png(2, 1, 16, 0, b"\0\x40\x00\x00\x01"), False, id="grey of 16 bits"),
            pytest.param(
                png(2, 1, 16, 6, b"\0" + b"\x00\x00\x00\x00\x40\x00\xff\xff" * 2), False, id="blue of 16 bits"
            ),
            pytest.param(png(2, 1, 16, 0, b"\0" + bytes(4)), False, id="black"),
            pytest.param(png(2, 1, 8, 0, b"\0\x0f\x01"), False, id="8 bits"),
        ],
    )
    @pytest.mark.reported("png-16-bit-of-low-range")
    def test_a_line_says_so_once(self, data: bytes, is_said: bool, caplog: pytest.LogCaptureFixture) -> None:
        """12 bits of data in 16 can't be told from a dark image: the pixels are those levels, and a line says so."""
        for _ in range(3):
            decode_image(data, as_stored(2))
        assert [record.levelname for record in caplog.records] == ["WARNING"] * is_said
        assert all("16-bit PNG image has no level over 16,383 of 65,535" in message for message in caplog.messages)
