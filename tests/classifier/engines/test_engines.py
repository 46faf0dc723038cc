"""What holds for every engine and precision: an image's scores are the same bits in any batch and thread."""

from __future__ import annotations

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import hardware
from classifier.engines.runtime import installed_wheels
from classifier.selftest import self_test
from tests.classifier.conftest import WAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier.engines import Engine, Tuning
    from classifier.model import Model
    from tests.classifier.conftest import OpenWay


@pytest.fixture(scope="session", params=WAYS)
def engines(request: pytest.FixtureRequest, open_way: OpenWay) -> dict[str, Engine]:
    """Return the engines of one way, by number of threads and tuning."""
    tunings: tuple[Tuning, ...] = ("latency", "throughput")
    return {
        f"{threads} {tuning}": open_way(request.param, threads=threads, tuning=tuning)
        for threads in (1, 2)
        for tuning in tunings
    }


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def alone(engines: dict[str, Engine], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the scores of each image run alone, on one thread."""
    return np.concatenate([engines["1 latency"].run(image[np.newaxis]) for image in images])


@given(
    start=st.integers(0, 80),
    count=st.integers(0, 80),
    opened=st.sampled_from(["1 latency", "2 latency", "1 throughput", "2 throughput"]),
)
@settings(deadline=None, max_examples=60)
def test_scores_do_not_depend_on_the_batch(
    engines: dict[str, Engine],
    images: NDArray[np.uint8],
    alone: NDArray[np.float32],
    start: int,
    count: int,
    opened: str,
) -> None:
    """An image's scores are bit-equal alone and in any batch, on one thread or two, with either tuning."""
    scores = engines[opened].run(images[start : start + count])
    assert scores.tobytes() == alone[start : start + count].tobytes()


def test_every_way_gives_the_golden_scores(engines: dict[str, Engine], digits_model: Model) -> None:
    """Each engine passes the self-test, within its precision's tolerance of torch."""
    for engine in engines.values():
        report = self_test(replace(digits_model, engine=engine))
        assert report.engine == engine.info


@pytest.mark.parametrize("opened", ["2 latency", "2 throughput"])
def test_many_threads_share_an_engine(
    engines: dict[str, Engine], images: NDArray[np.uint8], alone: NDArray[np.float32], opened: str
) -> None:
    """Eight threads that run one engine at once get the scores that each gets alone."""
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: engines[opened].run(images[start : start + 20]), range(0, 80, 20)))
        ones = list(pool.map(lambda image: engines[opened].run(image[np.newaxis]), images))
    assert np.concatenate(parts).tobytes() == alone.tobytes()
    assert np.concatenate(ones).tobytes() == alone.tobytes()


def test_no_images(engines: dict[str, Engine], images: NDArray[np.uint8]) -> None:
    """An empty batch gives no rows, but a column for each class."""
    for engine in engines.values():
        scores = engine.run(images[:0])
        assert scores.shape == (0, 10)
        assert scores.dtype == np.float32


@pytest.mark.parametrize("way", WAYS)
def test_batch_size_bounds_one_execution(open_way: OpenWay, images: NDArray[np.uint8], way: str) -> None:
    """On the CPU the batch size splits the work without changing a bit, so it is not recorded."""
    engine = open_way(way, batch_size=3)
    assert engine.run(images).tobytes() == open_way(way).run(images).tobytes()
    assert engine.info.batch_size is None


def test_images_that_are_not_contiguous(
    engines: dict[str, Engine], images: NDArray[np.uint8], alone: NDArray[np.float32]
) -> None:
    """Strided and read-only arrays get the right scores."""
    locked = images.copy()
    locked.flags.writeable = False
    for engine in engines.values():
        assert engine.run(images[::7]).tobytes() == alone[::7].tobytes()
        assert engine.run(locked).tobytes() == engine.run(locked[:, ::1]).tobytes() == alone.tobytes()
        assert engine.run(images[:, :, ::-1][:, :, ::-1]).tobytes() == alone.tobytes()


def test_images_are_not_kept(engines: dict[str, Engine], images: NDArray[np.uint8]) -> None:
    """Changing the images after a run affects neither its scores nor later ones."""
    own = images[:4].copy()
    for engine in engines.values():
        scores = engine.run(own)
        before = scores.tobytes()
        own[:] = 0
        assert engine.run(images[:4]).tobytes() == before == scores.tobytes()
        own[:] = images[:4]


@pytest.mark.parametrize("way", ["fp32 onnxruntime", "fp32 openvino"])
@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": -1}, {"batch_size": 0}, {"batch_size": -1}])
def test_numbers_below_one_are_the_callers_error(open_way: OpenWay, way: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        open_way(way, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
    ids=["not square", "NCHW", "no batch", "float"],
)
def test_wrong_pixels_are_the_callers_error(engines: dict[str, Engine], wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"the graph takes uint8 \[N, 8, 8, 3\], got"):
        engines["1 latency"].run(wrong)


@pytest.mark.parametrize("way", WAYS)
def test_info_records_what_ran(open_way: OpenWay, way: str) -> None:
    """Engine, version, device, instruction set and precision are recorded; options that change no bit are not."""
    info = open_way(way, threads=1).info
    precision, engine = way.split()
    package = "openvino" if engine == "openvino" else installed_wheels()[0]
    assert (info.name, info.version) == (engine, importlib.metadata.version(package))
    assert (info.device, info.precision, info.batch_size) == ("cpu", precision, None)
    assert info.instruction_set == hardware.cpu().instruction_set
    assert info == open_way(way, threads=2, tuning="throughput").info
