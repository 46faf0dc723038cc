"""Processes that load: the same images as threads give, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from batch.pipeline import workers
from batch.pipeline.contained import Decoder
from batch.pipeline.workers import Loader
from classifier.errors import ImageError
from classifier.types import Preprocessing
from tests.batch.conftest import read_parts
from tests.batch.pipeline.test_contained import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.inputs.plan import ImageFile
    from batch.pipeline.loading import LoadedImage
    from tests.batch.conftest import Run

PREPROCESSING = Preprocessing(resize_size=32, crop_size=28)
WITHIN_S = 30


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    """Return sound images of each format, one of them large, with what is no image among them, one of them gone."""
    contents = {f"{format}.jpg": encode(60, 40, format) for format in ("JPEG", "PNG", "WebP", "BMP")}
    contents |= {"cut.png": encode(60, 40, "PNG")[:90], "empty.png": b"", "large.jpg": encode(5000, 4000, "JPEG")}
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in {**contents, "gone.png": b"", "text.jpg": b"text"}.items():
        (folder / name).write_bytes(data)
    (folder / os.fsdecode(b"\xff.png")).write_bytes(encode(50, 30, "PNG"))
    found = list(listed_images(find_inputs([str(folder)])))
    (folder / "gone.png").unlink()
    return found


def seen(images: list[LoadedImage]) -> list[object]:
    """Return all that is known of images, so that it can be compared."""
    return [
        (each.file, each.bytes, each.sha256, str(each.image), each.image.reason)
        if isinstance(each.image, ImageError)
        else (each.file, each.bytes, each.sha256, each.image.pixels.tobytes(), each.image.width, each.image.format)
        for each in images
    ]


@pytest.fixture
def decode() -> Iterator[Decoder]:
    with Decoder(PREPROCESSING) as decoder:
        yield decoder


@pytest.fixture
def loader(files: list[ImageFile], decode: Decoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Yield a loader whose one process has started."""
    monkeypatch.setattr(workers, "IMAGES_BEFORE_PROCESSES", 0)
    with closing(Loader(PREPROCESSING, processes=1)) as made:
        wait_for_process(made, files, decode)
        yield made


def wait_for_process(loader: Loader, files: list[ImageFile], decode: Decoder) -> int:
    """Load until the process has started, and return its id."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        loader(files[:1], decode)
        worker = loader._workers.queue[-1]
        if worker is not None and worker.has_started:
            return worker._process.pid
        time.sleep(0.05)
    pytest.fail("no process has started")


def test_a_process_loads_what_a_thread_does(files: list[ImageFile], loader: Loader, decode: Decoder) -> None:
    """Pixels, sizes, digests and errors are the same, and a process does what is not left to the threads."""
    threads = Loader(PREPROCESSING, processes=0)
    assert seen(loader(files, decode)) == seen(threads(files, decode))
    worker = loader._workers.queue[-1]
    assert worker is not None
    by_process = {file.relative for file, image in zip(files, worker.load(files), strict=True) if image}
    assert by_process == {"BMP.jpg", "JPEG.jpg", "PNG.jpg", "WebP.jpg", os.fsdecode(b"\xff.png")}


def test_a_process_may_have_none_to_give(files: list[ImageFile], loader: Loader, decode: Decoder) -> None:
    """Files of which each one is left to the threads, as in a folder of large photographs, are rows as others are."""
    left = [file for file in files if file.relative in {"cut.png", "empty.png", "large.jpg", "gone.png", "text.jpg"}]
    assert len(left) == 5
    assert seen(loader(left, decode)) == seen(Loader(PREPROCESSING, processes=0)(left, decode))
    assert loader._workers.queue[-1] is not None, "the process goes on"


def test_what_lies_behind_a_url_is_fetched_once(files: list[ImageFile], loader: Loader, decode: Decoder) -> None:
    """An image that a process can't decode comes back with its bytes, where fetching it again would cost a transfer."""
    large = next(file for file in files if file.relative == "large.jpg")
    far = replace(large, input=replace(large.input, location=f"file://{large.input.location}"))
    worker = loader._workers.queue[-1]
    assert worker is not None
    assert worker.load([far]) == [Path(large.location).read_bytes()]
    assert seen(loader([far], decode)) == seen(Loader(PREPROCESSING, processes=0)([far], decode))


def test_what_ends_a_process_ends_no_run(files: list[ImageFile], loader: Loader, decode: Decoder) -> None:
    """The images of a process that was killed are loaded all the same, contained; then there is another process."""
    expected = seen(loader(files, decode))
    pid = wait_for_process(loader, files, decode)
    os.kill(pid, signal.SIGKILL)
    assert seen(loader(files, decode)) == expected
    assert wait_for_process(loader, files, decode) != pid
    assert seen(loader(files, decode)) == expected


def test_without_room_for_processes_the_threads_load(
    files: list[ImageFile], decode: Decoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where no process can be started, none lasts to its first image, or one prints, threads load, from then on."""
    expected = seen(Loader(PREPROCESSING, processes=0)(files, decode))
    monkeypatch.setattr(workers, "IMAGES_BEFORE_PROCESSES", 0)
    talkative = tmp_path / "python"
    talkative.write_text(f'#!/bin/sh\necho good morning to you all\nexec {sys.executable} "$@"\n')
    talkative.chmod(0o755)
    for executable in ("/nonexistent/python", "/bin/false", str(talkative)):
        loader = Loader(PREPROCESSING, processes=1)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", executable)
            deadline = time.monotonic() + WITHIN_S
            while loader._can_start and time.monotonic() < deadline:
                loader(files[:1], decode)
        assert not loader._can_start
        assert seen(loader(files, decode)) == expected
        loader.close()


def test_a_run_that_ends_loads_no_more(files: list[ImageFile], loader: Loader, decode: Decoder) -> None:
    """Once it was stopped, neither a process's leavings nor what is contained are loaded, nor anything else."""
    threads = Loader(PREPROCESSING, processes=0)
    decode.stop()
    for load in (loader, threads):
        with pytest.raises(CancelledError):
            load(files, decode)
    with pytest.raises(CancelledError):
        decode.contained(b"")


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_processes_change_no_byte(
    tmp_path: Path, run: Run, few: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are the same with and without processes, out of folders and of tar files, and none is left behind."""
    subprocess.run(["tar", "-C", few, "-cf", tmp_path / "plain.tar", "."], check=True)
    subprocess.run(["tar", "-C", few, "-czf", tmp_path / "packed.tar.gz", "."], check=True)
    inputs = (few, tmp_path / "plain.tar", tmp_path / "packed.tar.gz")
    run(tmp_path / "threads", *inputs, format=format, all_scores=True, processes=0)
    by_process = []
    real = workers._Worker.load
    monkeypatch.setattr(workers, "IMAGES_BEFORE_PROCESSES", 0)
    monkeypatch.setattr(workers._Worker, "is_ready", _wait_until_ready)
    monkeypatch.setattr(workers._Worker, "load", lambda *args: by_process.extend(args[1]) or real(*args))
    run(tmp_path / "processes", *inputs, format=format, all_scores=True, processes=3)
    assert len(by_process) == 120
    assert read_parts(tmp_path / "threads") == read_parts(tmp_path / "processes")
    assert not [child for child in psutil.Process().children() if "batch.pipeline.workers" in child.cmdline()]


def _wait_until_ready(worker: workers._Worker) -> bool:
    if not worker.has_started:
        worker.receive()
        worker.has_started = True
    return True


def test_processes_end_with_their_run(tmp_path: Path, files: list[ImageFile]) -> None:
    """Processes end when their run is killed."""
    script = """
import sys, time
from batch.pipeline.workers import _Worker
from classifier.types import Preprocessing
worker = _Worker(Preprocessing(resize_size=32, crop_size=28))
worker._process.terminate()  # before it runs a line of Python
worker.receive()
print(worker._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        process = psutil.Process(int(run.stdout.readline()))
        process.terminate()  # what a container's end sends to all: the run decides
        assert process.is_running()
        run.kill()
        process.wait(WITHIN_S)
