"""Engines: the same bits at any batch size, what was asked for or an error, nothing printed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import hardware
from classifier.artifact import CONFIG, MODEL
from classifier.engines import graphs, onnxruntime, sessions
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.selection import open_engine
from classifier.errors import DamagedArtifact, EngineUnavailable, OutOfDeviceMemory, TandemError
from classifier.extras import install_extra
from classifier.selftest import self_test
from classifier.types import EngineInfo, ModelConfig, from_json, to_json
from tests.classifier.ways import WAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier.engines import Engine, Tuning
    from classifier.model import Model
    from tests.classifier.ways import OpenWay

ROOT = Path(__file__).resolve().parents[2]
GPU_WHEEL = "onnxruntime-gpu" in sessions.installed_wheels()
cpu_wheel_only = pytest.mark.skipif(GPU_WHEEL, reason="states what the CPU build of onnxruntime answers")


@pytest.fixture(scope="session")
def graph(digits_files: Mapping[str, bytes]) -> bytes:
    return digits_files[MODEL]


@pytest.fixture(scope="session")
def config(digits_files: Mapping[str, bytes]) -> ModelConfig:
    return from_json(digits_files[CONFIG], ModelConfig)


@pytest.fixture(scope="session", params=WAYS)
def engines(request: pytest.FixtureRequest, open_way: OpenWay) -> dict[str, Engine]:
    """Return the engines of one way, by the number of threads and what they are tuned for."""
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
    """Return the scores of each image that was run by itself, on one thread."""
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
    """An image's scores are the same bits alone, beside any others, on one thread or two, in a service or in bulk."""
    scores = engines[opened].run(images[start : start + count])
    assert scores.tobytes() == alone[start : start + count].tobytes()


def test_every_way_gives_the_golden_scores(engines: dict[str, Engine], digits_model: Model) -> None:
    """Each engine is within its precision's tolerance of torch; the self-test that says so is the production's."""
    for engine in engines.values():
        report = self_test(replace(digits_model, engine=engine))
        assert report.engine == engine.info


@pytest.mark.parametrize("opened", ["2 latency", "2 throughput"])
def test_many_threads_share_an_engine(
    engines: dict[str, Engine], images: NDArray[np.uint8], alone: NDArray[np.float32], opened: str
) -> None:
    """Eight threads that run one engine at once get the scores that each would get alone."""
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: engines[opened].run(images[start : start + 20]), range(0, 80, 20)))
        ones = list(pool.map(lambda image: engines[opened].run(image[np.newaxis]), images))
    assert np.concatenate(parts).tobytes() == alone.tobytes()
    assert np.concatenate(ones).tobytes() == alone.tobytes()


def test_no_images(engines: dict[str, Engine], images: NDArray[np.uint8]) -> None:
    """A batch of none has no rows, and still a column for each class."""
    for engine in engines.values():
        scores = engine.run(images[:0])
        assert scores.shape == (0, 10)
        assert scores.dtype == np.float32


@pytest.mark.parametrize("way", WAYS)
def test_batch_size_bounds_one_execution(open_way: OpenWay, images: NDArray[np.uint8], way: str) -> None:
    """On the CPU a batch size splits the work and changes no bit, so it is not recorded."""
    engine = open_way(way, batch_size=3)
    assert engine.run(images).tobytes() == open_way(way).run(images).tobytes()
    assert engine.info.batch_size is None


def test_images_that_are_not_contiguous(
    engines: dict[str, Engine], images: NDArray[np.uint8], alone: NDArray[np.float32]
) -> None:
    """A view that skips rows gets the scores of its own images; so does one that can't be written."""
    locked = images.copy()
    locked.flags.writeable = False
    for engine in engines.values():
        assert engine.run(images[::7]).tobytes() == alone[::7].tobytes()
        assert engine.run(locked).tobytes() == engine.run(locked[:, ::1]).tobytes() == alone.tobytes()
        assert engine.run(images[:, :, ::-1][:, :, ::-1]).tobytes() == alone.tobytes()


def test_images_are_not_kept(engines: dict[str, Engine], images: NDArray[np.uint8]) -> None:
    """What the caller does with its images afterwards changes nothing that was answered, and nothing that will be."""
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
    """Engine, version, device, instruction set and precision are recorded; what changes no bit is not."""
    info = open_way(way, threads=1).info
    precision, engine = way.split()
    package = "openvino" if engine == "openvino" else sessions.installed_wheels()[0]
    assert (info.name, info.version) == (engine, importlib.metadata.version(package))
    assert (info.device, info.precision, info.batch_size) == ("cpu", precision, None)
    assert info.instruction_set == hardware.cpu().instruction_set
    assert info == open_way(way, threads=2, tuning="throughput").info


# What is asked for, or an error


@cpu_wheel_only
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_is_refused_by_the_cpu_build(graph: bytes, device: str) -> None:
    """Asking for CUDA never ends on the CPU, where ONNX Runtime itself would go with a line in its log."""
    with pytest.raises(EngineUnavailable, match=r"is built for the CPU alone; pip uninstall onnxruntime, then"):
        OnnxRuntimeEngine(graph, device=device)


@pytest.mark.parametrize(
    ("driver", "fact", "remedy"),
    [
        (None, "no NVIDIA driver was found", "--gpus all"),
        (hardware.NvidiaDriver(cuda_version=(12, 8), gpus=()), "runs CUDA up to 12.8", "update the driver"),
        (hardware.NvidiaDriver(cuda_version=(13, 0), gpus=()), "shows 0 GPUs", "CUDA_VISIBLE_DEVICES"),
    ],
    ids=["no driver", "old driver", "no GPU"],
)
def test_cuda_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, driver: hardware.NvidiaDriver | None, fact: str, remedy: str
) -> None:
    """With the GPU build installed, the error names the first part that CUDA lacks."""
    monkeypatch.setattr(sessions, "nvidia_driver", lambda: driver)
    runtime = SimpleNamespace(
        __version__="1.31.1", cuda_version="13.0", get_available_providers=lambda: [sessions.CUDA, sessions.CPU]
    )
    with pytest.raises(EngineUnavailable) as caught:
        sessions.check_cuda(runtime, 0)  # type: ignore[arg-type]  # stands for a build that is not installed here
    said, _, advice = str(caught.value).partition("; ")
    assert fact in said
    assert remedy in advice


def test_the_newest_cuda_of_a_driver_may_be_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver for CUDA 13.2 and one for 14.0 both run a build for 13.0."""
    gpu = hardware.Gpu(name="NVIDIA H200", compute_capability="sm_90")
    runtime = SimpleNamespace(
        __version__="1.31.1", cuda_version="13.0", get_available_providers=lambda: [sessions.CUDA]
    )
    for version in ((13, 2), (14, 0)):
        driver = hardware.NvidiaDriver(cuda_version=version, gpus=(gpu,))
        monkeypatch.setattr(sessions, "nvidia_driver", lambda driver=driver: driver)
        assert sessions.check_cuda(runtime, 0) == gpu  # type: ignore[arg-type]


def test_gpus_of_one_compute_capability_are_told_apart(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN and cuBLAS choose kernels by the GPU's size as well, so nobody may count on equal bits of both."""

    def on(name: str) -> EngineInfo:
        gpu = hardware.Gpu(name=name, compute_capability="sm_90")
        monkeypatch.setattr(onnxruntime, "check_cuda", lambda runtime, index: gpu)
        return OnnxRuntimeEngine(graph, device="cuda", batch_size=8).info

    monkeypatch.setattr(onnxruntime, "_open_on_cuda", lambda *_, **__: SimpleNamespace(size=8, run=None))
    assert on("NVIDIA H200").instruction_set == "sm_90 NVIDIA H200"
    assert on("NVIDIA H200").bit_equal_to(on("NVIDIA H200"))
    assert not on("NVIDIA H200").bit_equal_to(on("NVIDIA H100 PCIe"))


@cpu_wheel_only
def test_a_session_for_cuda_does_not_fall_to_the_cpu(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should all checks be wrong, ONNX Runtime itself still refuses: the session has no CPU to fall to."""
    gpu = hardware.Gpu(name="none", compute_capability="sm_90")
    monkeypatch.setattr(sessions, "check_cuda", lambda runtime, index: gpu)
    monkeypatch.setattr(onnxruntime, "check_cuda", lambda runtime, index: gpu)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineUnavailable, match=r"does not load on it \(.*fallback to CPU EP has been explicitly"),
    ):
        OnnxRuntimeEngine(graph, device="cuda")


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CPU", ""])
def test_unknown_device(graph: bytes, device: str) -> None:
    with pytest.raises(EngineUnavailable, match="choose auto, cpu, cuda or cuda:N"):
        OnnxRuntimeEngine(graph, device=device)


def test_both_builds_installed(graph: bytes, tmp_path: Path) -> None:
    """With both wheels installed, of which one has overwritten the other, nothing runs, and a remedy is named."""
    for wheel in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{wheel}-1.31.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel.replace('_', '-')}\nVersion: 1.31.1\n")
    done = run_python("from classifier.engines.sessions import load_runtime; load_runtime()", PYTHONPATH=str(tmp_path))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("classifier.errors.EngineUnavailable: ")
    assert f"pip uninstall onnxruntime onnxruntime-gpu, then {install_extra('cpu', 'gpu')}" in last


def test_no_runtime_installed(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match=r"can't be loaded \(.*\); pip install -e '\.\[cpu\]' or"):
        OnnxRuntimeEngine(graph)


@pytest.mark.parametrize("home", ["fresh", "unwritable"])
def test_no_telemetry(tmp_path: Path, home: str) -> None:
    """ONNX Runtime writes no record of its use into the home of whoever runs a model, and says nothing of it either."""
    (tmp_path / "fresh").mkdir()
    (tmp_path / "unwritable").touch()  # a folder would be one that root may write
    code = "import os; del os.environ['ORT_DISABLE_TELEMETRY']; from classifier.engines.sessions import *; probe('cpu')"
    done = run_python(code, HOME=str(tmp_path / home), XDG_CACHE_HOME="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "fresh").iterdir())


# Damaged graphs


@pytest.mark.parametrize("damaged", [b"", b"hello", b"\0" * 100, b"<html></html>"])
def test_bytes_that_are_no_graph(damaged: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no ONNX ends in one sentence, and ONNX Runtime prints nothing of its own."""
    with pytest.raises(DamagedArtifact, match="export it again") as caught:
        OnnxRuntimeEngine(damaged)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_corrupt_graphs(graph: bytes, data: st.DataObject) -> None:
    """A graph that was cut or altered anywhere runs, or is an error of ours: no other exception gets out."""
    end = data.draw(st.sampled_from([len(graph), len(graph) // 2]) | st.integers(0, len(graph)))
    corrupt = bytearray(graph[:end])
    for position in data.draw(st.lists(st.integers(0, max(end - 1, 0)), max_size=4)) if end else []:
        corrupt[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedArtifact):
        OnnxRuntimeEngine(bytes(corrupt), threads=1)


def test_graph_of_another_kind() -> None:
    """A graph that is valid ONNX, and no classifier of images, is told so."""
    with pytest.raises(DamagedArtifact, match=r"where one uint8 \[N, H, H, 3\] and float32 'probabilities'"):
        OnnxRuntimeEngine(graphs.PROBE)


def test_weights_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that takes its weights from a file in the working directory is damage: no digest vouches for them."""
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(np.ones(300, np.float32).tobytes())
    onnx = pytest.importorskip("onnx")
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[300])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [300]) for name in "xy")
    add = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "add", [x], [y], [weights])
    graph = onnx.helper.make_model(add, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    with pytest.raises(DamagedArtifact, match="External data path does not exist"):
        sessions.open_on_cpu(sessions.load_runtime(), graph.SerializeToString())


def test_graph_and_config_of_two_models(config: ModelConfig, graph: bytes) -> None:
    """A graph with another number of classes than the config has labels is damage, not a wrong label."""
    other = from_json(to_json(config).replace(b'"labels": [', b'"labels": [\n    "eleventh",'), ModelConfig)
    with pytest.raises(DamagedArtifact, match=r"gives 10 classes, config.json says 8 px and 11"):
        open_engine(other, lambda file: graph, precision="fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the process's address space")
def test_out_of_memory(graph: bytes, tmp_path: Path) -> None:
    """A batch that memory does not hold ends in one sentence, and the engine still runs a smaller one."""
    (tmp_path / "model.onnx").write_bytes(graph)
    done = run_python(
        f"""
import resource
from pathlib import Path
import numpy as np
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import OutOfDeviceMemory
engine = OnnxRuntimeEngine(Path({str(tmp_path / "model.onnx")!r}).read_bytes(), threads=1, batch_size=100_000)
images = np.zeros((100_000, 8, 8, 3), np.uint8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
try:
    engine.run(images)
except OutOfDeviceMemory as error:
    print(error)
print(engine.run(images[:1]).shape)
"""
    )
    assert done.stdout.splitlines() == [
        "a batch of 100,000 images does not fit into the free memory of cpu; free some, or choose a smaller batch size",
        "(1, 10)",
    ], done.stderr


def test_memory_messages_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA, cuDNN, cuBLAS and ONNX Runtime's own allocator say of full memory is told from other failures.

    cuDNN may not say it: then what the driver says of free memory decides.
    """

    class Session:
        def __init__(self, message: str) -> None:
            self.message = message

        def run(self, outputs: list[str], inputs: dict[str, object]) -> list[object]:
            raise RuntimeError(self.message)

    def error_of(message: str) -> TandemError:
        with pytest.raises(TandemError) as caught:
            sessions.run_session(Session(message), ["y"], {"x": np.zeros(4)}, device="cuda:0")
        return caught.value

    for message in (
        "Failed to allocate memory for requested buffer of size 123",
        "Available memory of 1 is smaller than requested bytes of 2",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: the resource allocation failed ; GPU=0",
    ):
        assert isinstance(error_of(message), OutOfDeviceMemory)
    started = (
        "/src/cuda_call.cc:154 CudaCall(ERRTYPE) CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; line=9"
    )
    said = "onnxruntime failed on cuda:0 (CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED);"
    for free, full in ((None, False), (2**32, False), (2**28, True)):
        monkeypatch.setattr(sessions, "free_memory", lambda index, free=free: free)
        assert isinstance(error_of(started), OutOfDeviceMemory) == full
        assert full or said in str(error_of(started))
    other = error_of("CUDA failure 700: an illegal memory access was encountered")
    assert not isinstance(other, OutOfDeviceMemory)
    assert "onnxruntime failed on cuda:0 (CUDA failure 700" in str(other)


def test_probe_is_the_graph_that_it_says() -> None:
    """The bytes in the source are Conv and MatMul of one number: they run, and the package onnx builds the same."""
    sessions.probe("cpu")
    onnx = pytest.importorskip("onnx")
    make, shape = onnx.helper, [1, 1, 1, 1]
    built = make.make_model(
        make.make_graph(
            [make.make_node("Conv", ["x", "x"], ["c"]), make.make_node("MatMul", ["c", "c"], ["y"])],
            "probe",
            [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        ),
        opset_imports=[make.make_opsetid("", 20)],
        ir_version=10,
    )
    assert built.SerializeToString(deterministic=True) == graphs.PROBE


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        timeout=60,
        check=False,
    )
