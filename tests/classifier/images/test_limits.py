"""Limits on one image: bytes, pixels and memory."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from classifier.errors import ImageTooLarge
from classifier.images import LIMITS, Limits, decode_image
from classifier.images.memory import bytes_to_decode
from classifier.types import Preprocessing
from tests.classifier.images.samples import GOOD, PHOTO, SMALL, encode, png


class TestLimits:
    def test_bytes(self) -> None:
        """A file over the limit is refused; one at the limit is accepted."""
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
        """An image over a limit on pixels or memory is refused, in every format."""
        decode_image(GOOD[name], SMALL, Limits(max_pixels=40 * 30, max_side=40, max_resized_pixels=37 * 28))
        with pytest.raises(ImageTooLarge, match=r"of (40 × 30|30 × 40) pixels"):
            decode_image(GOOD[name], SMALL, limits)

    @pytest.mark.parametrize(("width", "height"), [(10, 63_498), (63_498, 10), (30_000, 1), (1, 65_535)])
    def test_long_and_thin(self, width: int, height: int) -> None:
        """A long, thin image is refused if resizing it would take gigabytes, but accepted by a small model."""
        data = encode(Image.new("L", (width, height), 50), "PNG")
        with pytest.raises(ImageTooLarge, match="too long and thin"):
            decode_image(data, PHOTO)
        assert (decode_image(data, Preprocessing(resize_size=8, crop_size=8)).pixels == 50).all()

    def test_webp_of_few_bytes(self) -> None:
        """WebP needs more memory per pixel, so its limit is lower: these few kilobytes would take 2 GB."""
        data = encode(Image.new("RGBA", (10_000, 9_999), (1, 2, 3, 128)), "WEBP", lossless=True)
        assert len(data) < 10_000
        with pytest.raises(ImageTooLarge, match=r"10,000 × 9,999 pixels can need [\d,]+ bytes of memory"):
            decode_image(data, SMALL)

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
        """The size in the header is checked before memory is allocated: these files lack the pixels that they claim."""
        with pytest.raises(ImageTooLarge, match=r"over the limit|too large to decode"):
            decode_image(data, SMALL)


def test_default_limits() -> None:
    """The documented defaults: 64 MiB, 100 megapixels, 75 of a WebP."""
    assert (LIMITS.max_bytes, LIMITS.max_pixels) == (67_108_864, 100_000_000)
    for format, pixels in {"JPEG": 100_000_000, "PNG": 100_000_000, "BMP": 100_000_000, "WebP": 74_900_000}.items():
        assert bytes_to_decode(format, (pixels, 1), (256, 256)) <= LIMITS.max_memory
    assert bytes_to_decode("WebP", (75_000_001, 1), (256, 256)) > LIMITS.max_memory
