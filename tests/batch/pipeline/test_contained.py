"""Contained decoding: the same pixels, with limits that end the image and nothing else."""

from __future__ import annotations

import io
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from batch.pipeline import contained
from batch.pipeline.contained import Decoder
from classifier.errors import ImageError
from classifier.images import decode_image
from classifier.types import Preprocessing
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run

PREPROCESSING = Preprocessing(resize_size=32, crop_size=28)


def encode(width: int, height: int, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, format, **options)
    return file.getvalue()


def test_contained_pixels_are_the_same() -> None:
    """An image has the same pixels, size and error, contained or not."""
    images = [encode(300, 200, format) for format in ("JPEG", "PNG", "WebP", "BMP")]
    with Decoder(PREPROCESSING, suspects=100) as decode:
        for data in images:
            here, there = decode_image(data, PREPROCESSING), decode(data)
            assert np.array_equal(here.pixels, there.pixels)
            assert (here.width, here.height, here.format) == (there.width, there.height, there.format)
        for data in (b"", b"text", images[0][:500], images[1][:500]):
            with pytest.raises(ImageError) as here_error:
                decode_image(data, PREPROCESSING)
            with pytest.raises(ImageError) as there_error:
                decode(data)
            assert (type(here_error.value), here_error.value.reason, str(here_error.value)) == (
                type(there_error.value), there_error.value.reason, str(there_error.value),
            )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "is_contained"),
    [
        (encode(2000, 2000, "JPEG"), False),
        (encode(5000, 4000, "JPEG"), True),
        (encode(2300, 2300, "JPEG", progressive=True), True),
        (encode(3000, 2300, "WebP", method=0), True),
        (encode(2000, 2000, "WebP", method=0), False),
    ],
    ids=["small", "large", "progressive", "WebP", "small WebP"],
)
def test_what_looks_dangerous_is_contained(data: bytes, is_contained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may take much memory or time by its header is decoded in a process of its own, and comes back right."""
    asked = []
    real = contained._Worker.ask
    monkeypatch.setattr(contained._Worker, "ask", lambda *args: asked.append(args) or real(*args))
    with Decoder(PREPROCESSING) as decode:
        image = decode(data)
    assert bool(asked) == is_contained
    assert np.array_equal(image.pixels, decode_image(data, PREPROCESSING).pixels)


def test_over_the_limits_an_image_is_an_error_and_the_next_one_is_not() -> None:
    """Time and memory of one image end in its error, the same each time; the next image is decoded."""
    slow, large = encode(9000, 9000, "PNG"), encode(9000, 9000, "WebP", method=0)
    with Decoder(PREPROCESSING, timeout_s=0.2) as decode:
        for data, reason in ((slow, "timeout"), (large, "too_large"), (slow, "timeout")):
            if reason == "too_large":
                decode._timeout_s = 10
            with pytest.raises(ImageError) as error:
                decode(data)
            assert error.value.reason == reason
            decode._timeout_s = 0.2
        assert decode(encode(20, 20, "PNG")).width == 20


def test_a_worker_that_was_killed_is_replaced() -> None:
    """Where the system ends the process itself, one image is an error, and the next one has a new process."""
    data = encode(20, 20, "PNG")
    with Decoder(PREPROCESSING, suspects=9) as decode:
        decode(data)
        worker = decode._workers.queue[-1]
        assert worker is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        with pytest.raises(ImageError, match="more memory"):
            decode(data)
        assert decode(data).width == 20


def test_a_killed_run_suspects_its_images(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the next chunk is decoded contained, for an image may have done it; to the same bytes."""
    out = tmp_path / "out"
    run(out)
    before = read_parts(out)
    (out / "parts" / "part-00001.parquet").unlink()
    record = out / "run.json"
    record.write_bytes(_without_end(record.read_bytes()))
    asked = []
    real = contained._Worker.ask
    monkeypatch.setattr(contained._Worker, "ask", lambda *args: asked.append(args) or real(*args))
    run(out)
    assert len(asked) == 9
    assert read_parts(out) == before


def _without_end(record: bytes) -> bytes:
    import json

    fields = json.loads(record)
    fields["attempts"][-1]["ended"] = None
    return json.dumps(fields).encode()
