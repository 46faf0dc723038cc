"""The memory budget of all threads: never exceeded, and no thread waits forever."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from classifier.images.memory import MemoryBudget
from tests.cgroups import limited_memory
from tests.classifier.images.samples import encode, exif_block
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_never_more_than_there_is() -> None:
    """Together, threads never hold more than the budget, and all of them finish."""
    memory, held, most, lock = MemoryBudget(100), 0, 0, threading.Lock()

    def hold(size: int) -> None:
        nonlocal held, most
        with memory.take(size):
            with lock:
                held += size
                most = max(most, held)
            threading.Event().wait(0.0005)
            with lock:
                held -= size

    sizes = [random.Random(0).choice([1, 10, 40, 60, 100]) for _ in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(hold, sizes))
    assert 0 < most <= 100


def test_more_than_there_is_runs_alone() -> None:
    """More than the budget is not refused, since limits do that, but runs alone."""
    memory = MemoryBudget(100)
    with memory.take(1000):
        pass
    with memory.take(100):
        pass


def test_much_does_not_wait_for_ever() -> None:
    """A large request is served before later small ones."""
    memory, order = MemoryBudget(100), []

    def hold(size: int) -> None:
        with memory.take(size):
            order.append(size)

    with memory.take(50):
        large = threading.Thread(target=hold, args=(100,))
        large.start()
        while not memory._turn.locked():
            pass
        small = [threading.Thread(target=hold, args=(1,)) for _ in range(5)]
        for thread in small:
            thread.start()
        assert order == []
    for thread in (large, *small):
        thread.join()
    assert order == [100, 1, 1, 1, 1, 1]


def test_a_failure_gives_its_memory_back() -> None:
    memory = MemoryBudget(100)
    for _ in range(3):
        with pytest.raises(OSError, match="truncated"), memory.take(100):
            raise OSError("truncated")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_threads_share_the_memory(tmp_path: Path) -> None:
    """Images that come at the same time take turns if there is not enough memory for all of them."""
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
    # Or glibc keeps freed blocks for later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert 200_000 < int(done.stdout) < 400_000  # KiB


@pytest.fixture
def small_container() -> Iterator[Path]:
    """Yield the file to enter a control group with 512 MiB of memory."""
    with limited_memory(512 * 2**20) as processes:
        yield processes


@pytest.mark.parametrize(
    ("image", "options", "answer"),
    [
        (Image.new("L", (9900, 10000), 90), {}, "too_large"),
        (Image.new("RGB", (6000, 6000), (90, 80, 70)), {}, (6000, 6000)),
        (Image.new("RGB", (5000, 5000), (90, 80, 70)), {"progressive": True}, "too_large"),
        (Image.new("RGB", (4000, 3000), (90, 80, 70)), {"progressive": True}, (4000, 3000)),
    ],
    ids=["99 megapixels", "36 megapixels", "progressive, 25 megapixels", "progressive, 12 megapixels"],
)
def test_a_small_container_refuses_what_would_end_it(
    image: Image.Image, options: dict[str, bool], answer: str | tuple[int, int], small_container: Path, tmp_path: Path
) -> None:
    """In 512 MiB, an image that needs too much of it is `too_large`; the kernel never has to end the process."""
    (tmp_path / "image.jpg").write_bytes(encode(image, "JPEG", **options))
    code = f"""
import os
from pathlib import Path
Path({str(small_container)!r}).write_text(str(os.getpid()))
from classifier.errors import ImageTooLarge
from classifier.images import decode_image
from classifier.types import Preprocessing
data = Path({str(tmp_path / "image.jpg")!r}).read_bytes()
try:
    image = decode_image(data, Preprocessing(resize_size=256, crop_size=224))
    print((image.width, image.height))
except ImageTooLarge as error:
    print(error.reason)
    assert "this container's limit leaves 214,748,364 for images" in str(error), error
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(answer)), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_plain_image_needs_no_more_than_it_reserves(format: str, mode: str, turned: bool, tmp_path: Path) -> None:
    options = {"exif": exif_block(6)} if turned else {}
    for name, size in (("image", (6000, 4000)), ("first", (60, 40))):
        (tmp_path / name).write_bytes(encode(Image.new(mode, size), format, **options))
    code = f"""
from pathlib import Path
from classifier.images import decode_image
from classifier.images.memory import bytes_to_decode_plain
from classifier.types import Preprocessing
data, small = Path({str(tmp_path / "image")!r}).read_bytes(), Preprocessing(resize_size=256, crop_size=224)
def memory(field):
    [line] = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) * 1024
decode_image(Path({str(tmp_path / "first")!r}).read_bytes(), small)  # loads the codec
before = memory("VmRSS")
decode_image(data, small)
print(memory("VmHWM") - before, bytes_to_decode_plain((6000, 4000), (384, 256), is_turned={turned}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    used, reserved = map(int, done.stdout.split())
    once = 12 * 2**20  # what Pillow and the allocator take beside it, for an image of any size: here 5 MB
    assert 0.5 * reserved < used < reserved + once
