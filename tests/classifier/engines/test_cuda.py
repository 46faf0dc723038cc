"""Batches of one fixed size, and the search for the fastest size; run on the CPU, where the code is the same."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
import pytest

from classifier.artifact import MODEL
from classifier.engines import cuda
from classifier.engines.cuda import FixedBatch, open_fastest
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.runtime import load_runtime
from classifier.engines.sessions import open_on_cpu
from classifier.errors import EngineError, OutOfDeviceMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier.model import Model


@pytest.fixture(scope="module")
def fixed(digits_files: Mapping[str, bytes]) -> FixedBatch:
    """Return batches of 8, with the buffers that CUDA uses, on a CPU session."""
    return make_fixed(digits_files[MODEL], size=8)


def make_fixed(graph: bytes, *, size: int, **embeddings: int) -> FixedBatch:
    runtime, widths = load_runtime(), {**embeddings, "probabilities": 10}  # in whatever order a graph has them
    session = open_on_cpu(runtime, graph, threads=1)
    return FixedBatch(runtime, session, input="images", size=size, crop_size=8, widths=widths, device=("cpu", 0))


def test_padded_batches(fixed: FixedBatch, digits_model: Model) -> None:
    """A smaller batch gets its own rows, whatever the previous batch left in the buffer."""
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected = digits_model.scores(images)
    assert fixed.size == 8
    for count in (8, 3, 8, 1, 5, 0):
        (scores,) = fixed.run(images[:count])
        assert scores.tobytes() == expected[:count].tobytes()


def test_padded_batches_with_embeddings(embedder_files: Mapping[str, bytes]) -> None:
    """Embeddings are right whenever requested, and the scores are bit-equal with and without them."""
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
    """The next batch does not change earlier results."""
    (scores,) = fixed.run(np.zeros((8, 8, 8, 3), np.uint8))
    before = scores.copy()
    fixed.run(np.full((8, 8, 8, 3), 255, np.uint8))
    assert scores.tobytes() == before.tobytes()


def test_threads_take_turns(fixed: FixedBatch, digits_model: Model) -> None:
    """Threads share the buffers without mixing their images."""
    images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: fixed.run(images[start : start + 4])[0], range(0, 200, 4)))
    assert np.concatenate(parts).tobytes() == digits_model.scores(images).tobytes()


def test_a_failure_is_one_sentence(fixed: FixedBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full memory is told from other failures, and the buffers are free for the next batch."""

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
    """The size doubles while that is faster and fits; it halves if the first size does not fit."""
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
    """While a size is opened, the GPU holds only the best one so far; in the end, only the best."""
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
    """If not even one image fits, the error says so."""

    def open_with(size: int) -> FixedBatch:
        raise OutOfDeviceMemory(f"a batch of {size} images does not fit into the free memory of cuda:0; free some")

    with pytest.raises(OutOfDeviceMemory, match="a batch of 1 images does not fit"):
        open_fastest(open_with)


def test_the_size_is_measured_by_running(
    digits_files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Real executions are timed, and the log names the chosen size."""
    monkeypatch.setattr(cuda, "LARGEST", 32)
    caplog.set_level(logging.INFO)
    best = open_fastest(lambda size: make_fixed(digits_files[MODEL], size=size))
    assert best.size in (16, 32)
    assert f"Batches of {best.size} images are the fastest" in caplog.text
