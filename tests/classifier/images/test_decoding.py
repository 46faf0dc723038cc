"""`decode_image` as a whole: the same pixels each time, or one error."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from classifier.errors import ImageError, NotAnImage, UnreadableImage
from classifier.images import DecodedImage, Limits, decode_image, read_image
from classifier.types import Preprocessing
from tests.classifier.images.samples import FAKES, GOOD, PHOTO, SMALL, encode, exif_block, photo, png, png_chunk
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


class TestFormats:
    def test_first_frame_of_an_animation(self) -> None:
        """An animation is decoded as its first frame."""
        frames = [Image.new("RGB", (30, 30), colour) for colour in ((10, 20, 30), (200, 0, 0), (0, 200, 0))]
        for format, options in (("WebP", {"lossless": True, "exact": True}), ("PNG", {})):
            data = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
            assert (decode_image(data, SMALL).pixels == (10, 20, 30)).all()

    def test_further_pictures_behind_a_jpeg(self) -> None:
        """A second picture or a film that a phone appended to a JPEG changes nothing."""
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

    def test_memory_is_the_callers(self) -> None:
        """The pixels are writable, as torch.from_numpy requires; changing them does not affect later results."""
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
        """A large JPEG, scaled while it is decoded, differs only slightly; its reported size is the full one."""
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
        """The codec scales down, but never below twice the target size."""
        resize, sides = Image.Image.resize, []

        def spy(image: Image.Image, *args: Any, **options: Any) -> Image.Image:
            sides.append(min(image.size))
            return resize(image, *args, **options)

        data = encode(photo(*size), "JPEG")
        monkeypatch.setattr(Image.Image, "resize", spy)
        decode_image(data, self.SCALED)
        assert 2 * 32 <= sides[0] < min(size)

    def test_a_large_photograph_is_decoded_sooner(self) -> None:
        """Scaled decoding takes less CPU time than exact decoding."""
        data = encode(photo(1600, 1200), "JPEG", quality=90)

        def cpu_s(preprocessing: Preprocessing) -> float:
            started = time.thread_time()
            decode_image(data, preprocessing)
            return time.thread_time() - started

        scaled, exact = (min(cpu_s(each) for _ in range(5)) for each in (self.SCALED, self.EXACT))
        assert scaled < exact


class TestErrors:
    def test_empty(self) -> None:
        """The error for an empty file says that it is empty."""
        with pytest.raises(UnreadableImage, match="empty") as caught:
            decode_image(b"", SMALL)
        assert caught.value.reason == "empty"

    @pytest.mark.parametrize("name", FAKES)
    def test_not_an_image(self, name: str) -> None:
        """The error for another format lists the accepted ones, and names the format if it is a known one."""
        data, words = FAKES[name]
        with pytest.raises(NotAnImage, match=rf"{words}.*JPEG, PNG, WebP or BMP") as caught:
            decode_image(data, SMALL)
        assert caught.value.reason == "not_an_image"

    @pytest.mark.parametrize("name", GOOD)
    def test_good(self, name: str) -> None:
        """The images that the tests below damage are good."""
        assert decode_image(GOOD[name], SMALL).format == name.partition(",")[0]

    @pytest.mark.parametrize("name", GOOD)
    def test_truncated(self, name: str) -> None:
        """An image cut anywhere in its pixels is an error, never an answer about the part that is left."""
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
        """A kept error holds no half-decoded image, so thousands can be collected."""
        data = encode(photo(300, 300), "PNG")
        with pytest.raises(UnreadableImage) as caught:
            decode_image(data[: len(data) // 2], SMALL)
        assert caught.value.__cause__ is not None
        frames = traceback.walk_tb(caught.value.__cause__.__traceback__)
        assert not [value for frame, _ in frames for value in frame.f_locals.values() if isinstance(value, Image.Image)]

    def test_other_decoders_are_out_of_reach(self) -> None:
        """No other format's decoder is even imported; EPS would run Ghostscript."""
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
        """Pillow's process-wide settings affect no decoding, and decoding does not change them."""
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        decode_image(GOOD["JPEG"], SMALL)
        assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        for name in ("JPEG", "PNG", "BMP"):
            decode_image(GOOD[name], Preprocessing(resize_size=8, crop_size=8))


class TestAnyBytes:
    """Any bytes give an image or an ImageError, and always the same one."""

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
        """Good images with bytes changed, removed, inserted and repeated."""
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
        """PNGs with right checksums and wrong contents, which changing bytes alone never gives."""
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
        """Noise after the first bytes of a good image."""
        self.check(start + rest)


def test_same_pixels_from_every_thread() -> None:
    """Images decoded in many threads at once are those decoded one after another."""
    images = [*GOOD.values(), *(encode(photo(320, 240, seed), "JPEG") for seed in range(10))] * 4
    expected = [decode_image(data, PHOTO).pixels.tobytes() for data in images]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda data: decode_image(data, PHOTO).pixels.tobytes(), images)) == expected
