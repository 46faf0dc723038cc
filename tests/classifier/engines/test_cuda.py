"""Executions of one size, their page-locked memory, and the search for the size. On the CPU: the code is the same."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
import pytest

from classifier.artifact import MODEL
from classifier.engines import cuda, sessions
from classifier.engines.cuda import FixedBatch, open_fastest
from classifier.engines.gpu_memory import free_memory
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import EngineError, OutOfDeviceMemory
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.model import Model


@pytest.fixture(scope="module")
def fixed(digits_files: Mapping[str, bytes]) -> FixedBatch:
    """Return batches of 8 with the buffers of CUDA, bound to a session on the CPU."""
    return make_fixed(digits_files[MODEL], size=8)


def make_fixed(graph: bytes, *, size: int, **embeddings: int) -> FixedBatch:
    runtime, widths = sessions.load_runtime(), {**embeddings, "probabilities": 10}  # in whatever order a graph has them
    session = sessions.open_on_cpu(runtime, graph, threads=1)
    return FixedBatch(runtime, session, input="images", size=size, crop_size=8, widths=widths, device=("cpu", 0))


def test_padded_batches(fixed: FixedBatch, digits_model: Model) -> None:
    """Any number up to the size gets its own rows, whatever the batch before has left in the buffer."""
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected = digits_model.scores(images)
    assert fixed.size == 8
    for count in (8, 3, 8, 1, 5, 0):
        (scores,) = fixed.run(images[:count])
        assert scores.tobytes() == expected[:count].tobytes()


def test_padded_batches_with_embeddings(embedder_files: Mapping[str, bytes]) -> None:
    """Asked for now and then, embeddings are right each time, and the scores are the same bits with and without."""
    graph = embedder_files[MODEL]
    fixed, engine = make_fixed(graph, size=8, embeddings=128), OnnxRuntimeEngine(graph)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected = engine.embed(images)
    for count in (8, 3, 0):
        (alone,) = fixed.run(images[:count])
        both = fixed.run(images[:count], ("probabilities", "embeddings"))
        assert [each.tobytes() for each in both] == [each[:count].tobytes() for each in expected]
        assert alone.tobytes() == both[0].tobytes()


def test_answers_are_the_callers_own(fixed: FixedBatch) -> None:
    """The next batch does not change what the last one answered."""
    (scores,) = fixed.run(np.zeros((8, 8, 8, 3), np.uint8))
    before = scores.copy()
    fixed.run(np.full((8, 8, 8, 3), 255, np.uint8))
    assert scores.tobytes() == before.tobytes()


def test_threads_take_turns(fixed: FixedBatch, digits_model: Model) -> None:
    """The buffers are one thread's at a time."""
    images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: fixed.run(images[start : start + 4])[0], range(0, 200, 4)))
    assert np.concatenate(parts).tobytes() == digits_model.scores(images).tobytes()


def test_a_failure_is_one_sentence(fixed: FixedBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device says of full memory is told from other failures; the buffers are there for the next batch."""

    def fail(message: str) -> Callable[..., None]:
        def run(binding: object) -> None:
            raise RuntimeError(message)

        return run

    session = fixed._session
    with monkeypatch.context() as failing:
        failing.setattr(session, "run_with_iobinding", fail("CUDA failure 2: out of memory ; GPU=0"))
        for _ in range(cuda.UNDER_WAY):
            with pytest.raises(OutOfDeviceMemory, match="a batch of 8 images does not fit into the free memory of cpu"):
                fixed.run(np.zeros((1, 8, 8, 3), np.uint8))
        failing.setattr(session, "run_with_iobinding", fail("CUDA failure 700: an illegal memory access"))
        with pytest.raises(EngineError, match=r"onnxruntime failed on cpu:0 \(CUDA failure 700"):
            fixed.run(np.zeros((1, 8, 8, 3), np.uint8))
    assert fixed.run(np.zeros((1, 8, 8, 3), np.uint8))[0].shape == (1, 10)


# The size


class Sized:
    """Stands for batches of one size on a GPU."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(
    ("rates", "memory_for", "best", "tried"),
    [
        ({16: 100, 32: 190, 64: 200}, 1024, 32, [16, 32, 64]),
        ({16: 100, 32: 80}, 1024, 16, [16, 32]),
        ({2**n: 2.0**n for n in range(4, 11)}, 4096, 1024, [16, 32, 64, 128, 256, 512, 1024]),
        ({16: 100, 32: 200, 64: 400}, 40, 32, [16, 32, 64]),
        ({8: 10}, 8, 8, [16, 8]),
        ({4: 10}, 5, 4, [16, 8, 4]),
        ({1: 1}, 1, 1, [16, 8, 4, 2, 1]),
    ],
    ids=["flat", "falling", "rising", "memory ends", "half of the first", "a quarter", "one"],
)
def test_the_size_with_the_most_images_per_second(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], memory_for: int, best: int, tried: list[int]
) -> None:
    """Doubled while that is worthwhile and memory lasts; halved where memory ends at once."""
    sizes = []

    def open_with(size: int) -> Sized:
        sizes.append(size)
        if size > memory_for:
            raise OutOfDeviceMemory(f"a batch of {size} images does not fit")
        return Sized(size)

    monkeypatch.setattr(cuda, "_timed", lambda opened: (opened, rates[opened.size]))
    assert open_fastest(open_with).size == best  # type: ignore[arg-type]
    assert sizes == tried


@pytest.mark.parametrize(
    ("rates", "held"),
    [({16: 100, 32: 200, 64: 200}, [set(), {16}, {32}]), ({8: 10}, [set(), set()])],
    ids=["slower", "memory ends while it is timed"],
)
def test_what_is_not_taken_is_let_go(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], held: list[set[int]]
) -> None:
    """When a size is opened, the GPU holds the best so far and no other; in the end the best alone."""
    alive: WeakSet[Sized] = WeakSet()
    seen = []

    def open_with(size: int) -> Sized:
        seen.append({each.size for each in alive})
        alive.add(opened := Sized(size))
        return opened

    def time_it(opened: Sized) -> tuple[Sized, float]:
        if opened.size not in rates:
            raise OutOfDeviceMemory(f"a batch of {opened.size} images does not fit")
        return opened, rates[opened.size]

    monkeypatch.setattr(cuda, "_timed", time_it)
    best = open_fastest(open_with)  # type: ignore[arg-type]
    assert seen == held
    assert list(alive) == [best]


def test_no_size_fits() -> None:
    """A GPU without memory is one sentence."""

    def open_with(size: int) -> FixedBatch:
        raise OutOfDeviceMemory(f"a batch of {size} images does not fit into the free memory of cuda:0; free some")

    with pytest.raises(OutOfDeviceMemory, match="a batch of 1 images does not fit"):
        open_fastest(open_with)


def test_the_size_is_measured_by_running(
    digits_files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Real executions are timed, and the log says which size was taken."""
    monkeypatch.setattr(cuda, "LARGEST", 32)
    caplog.set_level(logging.INFO)
    best = open_fastest(lambda size: make_fixed(digits_files[MODEL], size=size))
    assert best.size in (16, 32)
    assert f"Batches of {best.size} images are the fastest" in caplog.text


# Page-locked memory

DRIVER = r"""
#include <stdio.h>
static int contexts = 0;
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    printf("retain %d\n", device); *context = &contexts; return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { printf("release %d\n", device); fflush(stdout); return 0; }
int cuCtxPushCurrent_v2(void *context) { printf("push %d\n", context == &contexts); return 0; }
int cuCtxPopCurrent_v2(void **context) { printf("pop\n"); return 0; }
int cuMemHostRegister_v2(void *address, size_t size, unsigned flags) {
    printf("lock %d of %zu %u\n", ((char *)address)[7], size, flags); return REFUSE;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 12345; *total = 99999; return REFUSE; }
int cuMemHostUnregister(void *address) { printf("unlock %d\n", ((char *)address)[7]); return 0; }
"""

LOCK = """
import numpy as np
from classifier.engines.gpu_memory import free_memory, page_lock
array = page_lock(np.arange(100, dtype=np.uint8), index=2)
print("in use", int(array.sum()), flush=True)
print("free", free_memory(2), flush=True)
part = array[3:]
del array
print("still in use", flush=True)
del part
"""


@pytest.mark.parametrize("refuse", [0, 1])
def test_page_lock(tmp_path: Path, refuse: int) -> None:
    """Memory is locked for its GPU and unlocked before it goes; where the driver refuses, it is used as it is."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    (tmp_path / "driver.c").write_text(f"#include <stddef.h>\n#define REFUSE {refuse}\n{DRIVER}")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LOCK],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    enter, leave = ["retain 42", "push 1"], ["pop", "release 42"]
    asked = [*enter, *leave, f"free {None if refuse else 12345}"]
    locked = [*enter, "lock 7 of 100 1", *leave, "in use 4950", *asked, "still in use"]
    unlocked = [] if refuse else [*enter, "unlock 7", *leave]
    assert done.stdout.splitlines() == locked + unlocked


def test_without_a_driver_memory_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.engines.gpu_memory.load_driver", lambda: None)
    assert free_memory(0) is None
    array: NDArray[np.uint8] = np.zeros(3, np.uint8)
    assert cuda.page_lock(array, index=0) is array
