"""The EXIF orientation: read from any bytes, and applied to the pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from classifier.images import decode_image
from classifier.images.orientation import read_orientation
from tests.classifier.images.samples import SMALL, encode, exif, exif_block, photo

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        """A JPEG of any EXIF orientation gives its own pixels, turned upright."""
        turned = Image.fromarray(np.ascontiguousarray(stored_as(np.asarray(photo(43, 31)), orientation)))
        plain = encode(turned, "JPEG", quality=95)
        pixels = np.asarray(Image.open(io.BytesIO(plain)))
        # Turning a pattern to what its orientation n would have stored, and n back: 6 and 8 undo each other.
        upright = stored_as(pixels, {6: 8, 8: 6}.get(orientation, orientation))
        decoded = decode_image(encode(turned, "JPEG", quality=95, exif=exif_block(orientation)), SMALL)
        expected = decode_image(encode(Image.fromarray(np.ascontiguousarray(upright)), "PNG"), SMALL)
        assert (decoded.width, decoded.height) == (43, 31) == (expected.width, expected.height)
        assert (decoded.pixels == expected.pixels).all()


class TestReadOrientation:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_read(self, orientation: int, prefix: bytes, order: str) -> None:
        """The orientation is read in both byte orders, with and without the prefix that JPEG gives it."""
        assert read_orientation(prefix + exif(orientation, order=order)) == orientation

    @pytest.mark.parametrize(
        "block",
        [b"", b"MM\0*", exif(0), exif(9), exif(6)[:-8], exif(6, type=2), exif(6).replace(b"MM", b"MI"), exif(6)[6:]],
    )
    def test_upright_otherwise(self, block: bytes) -> None:
        """Without a valid orientation, an image counts as upright."""
        assert read_orientation(block) == 1

    @given(block=st.binary(), cut=st.integers(0, 40), order=st.sampled_from("<>"))
    def test_any_bytes(self, block: bytes, cut: int, order: str) -> None:
        """Any bytes give an orientation."""
        assert read_orientation(exif(6, order=order)[:cut] + block) in range(1, 9)
