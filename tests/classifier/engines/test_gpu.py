"""A real GPU: the same bits in any batch, scores close to the CPU's, and one error of one line if memory is full."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import MODEL, MODEL_FP16
from classifier.engines import sessions
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import OutOfDeviceMemory
from classifier.selftest import self_test

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.model import Model
    from classifier.types import Precision
    from tests.conftest import Tandem

pytestmark = pytest.mark.gpu

GRAPHS: dict[Precision, str] = {"fp32": MODEL, "fp16": MODEL_FP16}


@pytest.fixture(scope="module", params=GRAPHS)
def precision(request: pytest.FixtureRequest) -> Precision:
    precision: Precision = request.param
    return precision


@pytest.fixture(scope="module")
def graph(digits_files: Mapping[str, bytes], precision: Precision) -> bytes:
    return digits_files[GRAPHS[precision]]


@pytest.fixture(scope="module")
def engine(graph: bytes, precision: Precision) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(graph, device="cuda", precision=precision, batch_size=16)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)


def test_scores_do_not_depend_on_the_batch(engine: OnnxRuntimeEngine, images: NDArray[np.uint8]) -> None:
    """An image's scores are the same bits alone and at each position of a batch."""
    scores = engine.run(images)
    for count in (1, 2, 3, 15, 16, 17):
        assert engine.run(images[:count]).tobytes() == scores[:count].tobytes()
    for shift in range(1, 16):
        assert np.roll(engine.run(np.roll(images, shift, axis=0)), -shift, axis=0).tobytes() == scores.tobytes()


def test_threads_share_an_engine(engine: OnnxRuntimeEngine, images: NDArray[np.uint8]) -> None:
    """Eight threads that run one engine at once get the scores that each would get alone."""
    scores = engine.run(images)
    with ThreadPoolExecutor(8) as pool:
        ones = list(pool.map(lambda image: engine.run(image[np.newaxis]), images))
        many = list(pool.map(lambda start: engine.run(images[start : start + 40]), (0, 40, 20, 40, 0)))
    assert np.concatenate(ones).tobytes() == scores.tobytes()
    assert np.concatenate(many[:2]).tobytes() == scores.tobytes()


def test_golden_scores(engine: OnnxRuntimeEngine, digits_model: Model) -> None:
    """The engine passes the self-test, within its precision's tolerance of torch."""
    assert self_test(replace(digits_model, engine=engine)).engine == engine.info


def test_fp32_is_fp32(engine: OnnxRuntimeEngine, images: NDArray[np.uint8], digits_model: Model) -> None:
    """Scores in fp32 differ from the CPU's by at most 1e-5; with TF32 they would differ more."""
    if engine.info.precision != "fp32":
        pytest.skip("of fp32 alone")
    np.testing.assert_allclose(engine.run(images), digits_model.scores(images), rtol=0, atol=1e-5)


def test_what_runs_is_recorded(
    engine: OnnxRuntimeEngine, graph: bytes, precision: Precision, images: NDArray[np.uint8]
) -> None:
    """The fixed batch size and the kind of GPU are recorded, and another session gives the same bits."""
    info = engine.info
    assert (info.device, info.batch_size, info.precision) == ("cuda:0", 16, precision)
    assert info.instruction_set.startswith("sm_")
    again = OnnxRuntimeEngine(graph, device="cuda:0", precision=precision, batch_size=16)
    assert again.info == info
    assert again.run(images).tobytes() == engine.run(images).tobytes()


def test_the_fastest_size_is_found(graph: bytes, precision: Precision, images: NDArray[np.uint8]) -> None:
    """With `throughput` the size is measured, from 16 up, and more than one batch is under way."""
    engine = OnnxRuntimeEngine(graph, device="cuda", precision=precision, tuning="throughput")
    assert engine.info.batch_size is not None
    assert engine.busy_size > engine.info.batch_size >= 16
    assert engine.concurrency == 2
    assert np.isfinite(engine.run(images)).all()


def test_probe_runs(engine: OnnxRuntimeEngine) -> None:
    """`tandem doctor`'s probe runs on a working GPU."""
    sessions.probe(engine.info.device)


@pytest.fixture
def full_gpu() -> Iterator[None]:
    """Hold all but 16 MB of the GPU's memory during the test, as another program would."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch that is built for CUDA")
    held = []
    for size in (2**30, 2**26, 2**24):
        while torch.cuda.mem_get_info()[0] > size + 2**24:
            try:
                held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                break
    yield
    del held
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("full_gpu")
def test_no_memory_for_a_batch(digits_files: Mapping[str, bytes]) -> None:
    """On a GPU filled by another program, the error says that memory is full."""
    with pytest.raises(OutOfDeviceMemory, match="cuda:0"):
        OnnxRuntimeEngine(digits_files[MODEL], device="cuda", batch_size=65_536)


@pytest.mark.usefixtures("full_gpu")
def test_no_memory_is_one_sentence(tandem: Tandem, digits_home: Path, test_folder: Path, tmp_path: Path) -> None:
    """A bulk run on a full GPU ends with an error of one line, and leaves no output."""
    out = tmp_path / "out"
    asked = ("--model", "digits", "--device", "cuda", "--precision", "fp32", "--output", out)
    done = tandem("batch", test_folder, *asked, check=False, env={"TANDEM_HOME": str(digits_home)})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("Error: ")
    assert "memory" in last
    assert not out.exists()
