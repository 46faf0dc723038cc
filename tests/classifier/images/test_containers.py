"""Containers: metadata is removed, pixels stay, and endless files are refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from classifier.errors import UnreadableImage
from classifier.images import IMAGE_SUFFIXES, decode_image
from classifier.images.containers import MAX_PARTS, MAX_SCANS, open_container
from classifier.images.orientation import read_orientation
from classifier.types import Preprocessing
from tests.classifier.images.samples import exif
from tests.classifier.images.samples import png_chunk as chunk

AS_STORED = Preprocessing(resize_size=240, crop_size=240)


def encode(format: str, **options: object) -> bytes:
    """Return an image of 240 × 240 pixels, all different."""
    y, x = np.mgrid[:240, :240]
    image = Image.fromarray(np.stack([x, y, x * y % 251], axis=-1).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(data: bytes) -> bytes:
    return decode_image(data, AS_STORED).pixels.tobytes()


def segment(marker: int, contents: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents


def last_scan(jpeg: bytes) -> bytes:
    return jpeg[jpeg.rindex(b"\xff\xda") : -2]


class TestJpeg:
    JPEG = encode("JPEG", quality=90)
    PROGRESSIVE = encode("JPEG", quality=90, progressive=True)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"progressive": True},
            {
                "quality": 100,
                "subsampling": 0,
                "restart_marker_blocks": 1,
            },  # over 64 KiB, the most that a segment could swallow
            {"subsampling": 0, "keep_rgb": True},
            {"icc_profile": bytes(200_000), "comment": b"\xff\xd9\xff\xda", "exif": b"Exif\0\0" + exif(1)},
        ],
    )
    def test_pixels_stay(self, options: dict[str, object]) -> None:
        """Without its metadata, a file has the pixels that Pillow finds in the whole file."""
        data = encode("JPEG", **options)
        with Image.open(io.BytesIO(data)) as image:
            assert pixels(data) == np.asarray(image).tobytes()

    def test_colour_markers_stay(self) -> None:
        """Adobe's marker stays: it says that three components are RGB and not YCbCr."""
        data = encode("JPEG", quality=90, keep_rgb=True)
        # Without their names, R, G and B, in the headers of frame and scan, nothing else tells.
        unnamed = data.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0").replace(
            b"R\0G\0B\0", b"\1\0\2\0\3\0"
        )
        assert len(unnamed.split(b"\1\x11\0\2")) == len(unnamed.split(b"\1\0\2\0\3\0")) == 2
        assert pixels(unnamed) == pixels(data)

    def test_metadata_goes(self) -> None:
        """Profiles, comments, EXIF, thumbnails and bytes after the image are removed; the EXIF block is kept apart."""
        block = exif(6) + b"thumbnail"
        metadata = segment(0xE1, b"Exif\0\0" + block) + segment(0xE2, b"profile") + segment(0xFE, b"comment")
        container = open_container(self.JPEG[:2] + metadata + self.JPEG[2:] + b"a film")
        assert container.data == self.JPEG
        assert container.exif == block

    def test_between_scans(self) -> None:
        """Bytes that look like markers inside a segment between two scans are ignored."""
        at = self.PROGRESSIVE.rindex(b"\xff\xda")
        comment = segment(0xFE, b"\xff\xd9 \xff\xda \xff\xd8")
        assert pixels(self.PROGRESSIVE[:at] + comment + self.PROGRESSIVE[at:]) == pixels(self.PROGRESSIVE)

    @pytest.mark.parametrize("junk", [b"\xff" * 1000, b"\xff\0" * 1000, b"no marker"])
    def test_junk_between_segments(self, junk: bytes) -> None:
        """Fill bytes and junk between segments are skipped, as JPEG readers do."""
        behind_jfif = 20
        assert pixels(self.JPEG[:behind_jfif] + junk + self.JPEG[behind_jfif:]) == pixels(self.JPEG)

    def test_many_segments(self) -> None:
        """A file of endless segments is refused before listing them takes gigabytes; many are fine."""
        many = self.JPEG[:2] + segment(0xE1, b"Exif\0\0") * 50_000 + self.JPEG[2:]
        assert pixels(many) == pixels(self.JPEG)
        with pytest.raises(UnreadableImage, match="100,000 segments"):
            open_container(self.JPEG[:2] + segment(0xE5, b"") * (MAX_PARTS + 1) + self.JPEG[2:])

    def test_many_scans(self) -> None:
        """A progressive image with endless scans is refused; ten scans are normal."""
        assert self.PROGRESSIVE.count(b"\xff\xda") <= 12
        repeated = last_scan(self.PROGRESSIVE) * MAX_SCANS
        with pytest.raises(UnreadableImage, match="100 scans"):
            open_container(self.PROGRESSIVE[:-2] + repeated + self.PROGRESSIVE[-2:])

    def test_first_exif_block(self) -> None:
        """Of several EXIF blocks the first counts."""
        blocks = segment(0xE1, b"Exif\0\0" + exif(3)) + segment(0xE1, b"Exif\0\0" + exif(6))
        assert read_orientation(open_container(self.JPEG[:2] + blocks + self.JPEG[2:]).exif) == 3


class TestPng:
    PNG = encode("PNG")
    HEADER = 8 + 25  # where the chunk after IHDR begins

    def with_chunks(self, *chunks: bytes) -> bytes:
        return self.PNG[: self.HEADER] + b"".join(chunks) + self.PNG[self.HEADER :]

    @pytest.mark.parametrize(
        "chunks",
        [
            pytest.param(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))), id="text that unpacks to 16 MiB"),
            pytest.param(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24))), id="profile that unpacks to 16 MiB"),
            pytest.param(chunk(b"iCCP", b"a\0\7"), id="profile packed in no known way"),
            pytest.param(chunk(b"acTL", bytes(8)), id="animation of no frames"),
            pytest.param(chunk(b"acTL", bytes(8)) * 2 + chunk(b"fcTL", bytes(26)), id="broken animation"),
            pytest.param(chunk(b"eXIf", b"MM\0*" + bytes(range(256))), id="broken EXIF"),
            pytest.param(chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0", id="text with a wrong checksum"),
        ],
    )
    def test_metadata_does_no_harm(self, chunks: bytes) -> None:
        """Metadata that Pillow refuses or warns about leaves the image as it is."""
        assert pixels(self.with_chunks(chunks)) == pixels(self.PNG)
        assert open_container(self.with_chunks(chunks)).data == self.PNG

    def test_many_chunks(self) -> None:
        """A file of endless chunks is refused before listing them takes gigabytes."""
        with pytest.raises(UnreadableImage, match="100,000 chunks"):
            open_container(self.with_chunks(chunk(b"prVt", b"") * MAX_PARTS))

    def test_exif_behind_the_pixels(self) -> None:
        """EXIF may stand behind the pixels, as some programs append it."""
        container = open_container(self.PNG[:-12] + chunk(b"eXIf", exif(6)) + self.PNG[-12:])
        assert read_orientation(container.exif) == 6

    def test_orientation_elsewhere(self) -> None:
        """An orientation in XMP is ignored, as web browsers ignore it."""
        xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'
        assert pixels(self.with_chunks(chunk(b"iTXt", xmp))) == pixels(self.PNG)


def test_suffixes() -> None:
    """Every format's usual suffix is known, in lower case."""
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
