"""Contained decoding: the same pixels, with limits that end the image and nothing else."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from PIL import Image

from batch.pipeline import contained
from batch.pipeline.contained import Decoder
from classifier.errors import ImageError, UnreadableImage
from classifier.images import decode_image
from classifier.types import Preprocessing
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from tests.batch.conftest import Run

IS_WHOLE = os.environ.get("TANDEM_TEST_TORTURE") == "1"
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
    real = contained.ForkingProcess.ask
    monkeypatch.setattr(contained.ForkingProcess, "ask", lambda *args: asked.append(args) or real(*args))
    with Decoder(PREPROCESSING) as decode:
        image = decode(data)
    assert bool(asked) == is_contained
    assert np.array_equal(image.pixels, decode_image(data, PREPROCESSING).pixels)


def test_over_the_limits_an_image_is_an_error_and_the_next_one_is_not() -> None:
    """Time and pixels of one image end in its error, the same each time; the next image is decoded."""
    slow, large = encode(9000, 9000, "PNG"), encode(9000, 9000, "WebP", method=0)
    with Decoder(PREPROCESSING, timeout_s=0.2) as decode:
        for data, reason in ((slow, "timeout"), (large, "too_large"), (slow, "timeout")):
            with pytest.raises(ImageError) as error:
                decode(data)
            assert error.value.reason == reason
        assert decode(encode(20, 20, "PNG")).width == 20


def blank(mode: str, width: int, height: int, format: str, *, rotated: bool, **options: object) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6 if rotated else 1
    Image.new(mode, (width, height)).save(file, format, exif=exif, **options)
    return file.getvalue()


COSTLY = {
    "WebP": lambda: blank("RGBA", 8660, 8640, "WebP", rotated=True, lossless=True, method=0),
    "PNG": lambda: blank("RGBA", 10_000, 10_000, "PNG", rotated=True, compress_level=1),
    "16-bit PNG": lambda: blank("I;16", 10_000, 10_000, "PNG", rotated=True, compress_level=1),
    "CMYK JPEG": lambda: blank("CMYK", 10_000, 10_000, "JPEG", rotated=True, progressive=True, quality=30),
    "lossy WebP": lambda: blank("RGB", 8660, 8640, "WebP", rotated=False, method=0),
}


@pytest.mark.parametrize("kind", [*list(COSTLY)[:2], *(list(COSTLY)[2:] if IS_WHOLE else [])])
def test_every_image_within_the_limits_is_decoded_on_both_roads(kind: str) -> None:
    """The largest images that the service and `tandem classify` answer have the same pixels in a bulk run."""
    data = COSTLY[kind]()
    expected = decode_image(data, PREPROCESSING)
    with Decoder(PREPROCESSING) as decode:
        image = decode(data)
    assert np.array_equal(image.pixels, expected.pixels)
    assert (image.width, image.height, image.format) == (expected.width, expected.height, expected.format)


def kill_children_of(pid: int, number: int) -> threading.Thread:
    """Kill the next `number` children of a process, each as soon as it is there, as the kernel does for memory."""

    def kill() -> None:
        killed: set[str] = set()
        while len(killed) < number:
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if child not in killed:
                    os.kill(int(child), signal.SIGKILL)
                    killed.add(child)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize(("kills", "is_decoded"), [(1, True), (2, True), (3, False)])
def test_an_image_whose_process_was_killed_is_decoded_again(
    kills: int, is_decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill from outside says nothing about the image: it is decoded again, and at last the truth is told."""
    monkeypatch.setattr(contained, "RETRY_AFTER_S", 0)
    small, data = encode(20, 20, "PNG"), encode(5000, 4000, "PNG")
    with Decoder(PREPROCESSING, suspects=1) as decode:
        decode(small)  # its process is there
        worker = decode._workers.queue[-1]
        assert worker is not None
        killer = kill_children_of(worker._process.pid, kills)
        if is_decoded:
            assert np.array_equal(decode(data).pixels, decode_image(data, PREPROCESSING).pixels)
        else:
            with pytest.raises(
                UnreadableImage, match=r"^the process that decodes the image was killed \(signal 9\) at"
            ):
                decode(data)
        killer.join()
        assert decode.contained(small).width == 20


def test_a_process_that_was_killed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system ends the process itself, its image is decoded by a new one."""
    monkeypatch.setattr(contained, "RETRY_AFTER_S", 0)
    data = encode(20, 20, "PNG")
    with Decoder(PREPROCESSING, suspects=9) as decode:
        decode(data)
        worker = decode._workers.queue[-1]
        assert worker is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        assert decode(data).width == 20


@pytest.mark.parametrize("fails", [2, 3])
def test_a_process_that_can_not_be_started(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the machine has no room for a process, the image is tried again; at last its error says what the matter is."""
    monkeypatch.setattr(contained, "RETRY_AFTER_S", 0)
    real, calls = subprocess.Popen, []

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        calls.append(args)
        if len(calls) <= fails:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", start)
    with Decoder(PREPROCESSING, suspects=9) as decode:
        if fails < 3:
            assert decode(encode(20, 20, "PNG")).width == 20
        else:
            with pytest.raises(
                UnreadableImage, match=r"can't be started \(Resource temporarily unavailable\) at the last of 3"
            ) as e:
                decode(encode(20, 20, "PNG"))
            assert e.value.reason == "not_decoded"


def test_a_killed_run_suspects_its_images(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the next chunk is decoded contained, for an image may have done it; to the same bytes."""
    out = tmp_path / "out"
    run(out)
    before = read_parts(out)
    (out / "parts" / "part-00001.parquet").unlink()
    record = out / "run.json"
    record.write_bytes(_without_end(record.read_bytes()))
    asked = []
    real = contained.ForkingProcess.ask
    monkeypatch.setattr(contained.ForkingProcess, "ask", lambda *args: asked.append(args) or real(*args))
    run(out)
    assert len(asked) == 9
    assert read_parts(out) == before


def _without_end(record: bytes) -> bytes:
    import json

    fields = json.loads(record)
    fields["attempts"][-1]["ended"] = None
    return json.dumps(fields).encode()


def test_a_contained_process_inherits_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that is broken into finds neither the registry's password nor a cloud's keys."""
    secrets = ("TANDEM_REGISTRY_PASSWORD", "TANDEM_KEY_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "opensesame")
    with Decoder(PREPROCESSING, suspects=1) as decode:
        decode(encode(30, 20, "PNG"))
        [process] = [
            child for child in psutil.Process().children() if "batch.pipeline.forks" in " ".join(child.cmdline())
        ]
        assert not set(secrets) & process.environ().keys()
