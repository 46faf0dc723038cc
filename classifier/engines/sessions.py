"""Sessions of ONNX Runtime that run where they were asked to, or say in one sentence why they can't."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.gpu_memory import free_memory
from classifier.engines.graphs import PROBE, is_memory, no_room
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import Gpu, cpu_limit, nvidia_driver
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
GPU_WHEEL = "onnxruntime-gpu"

_CUDA_OPTIONS = {
    # TF32 has 10 bits of mantissa: fp32 in name only.
    "use_tf32": "0",
    # EXHAUSTIVE times the algorithms and may choose another each time; HEURISTIC chooses by shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Takes from the device what is needed, not the next power of two: others may use it too.
    "arena_extend_strategy": "kSameAsRequested",
}
_LIBRARIES_BYTES = 2**30
"""More than cuDNN and cuBLAS take for themselves: what fails in them with less free failed for that."""
_LIBRARY_FAILURE = re.compile(r"\b(CUDNN|CUBLAS) failure")
_CUDA_FAILURE = re.compile(r"\b[A-Z]+ failure \d+: [^;]*[^; ]")
_FATAL = 4  # Of ONNX Runtime's log levels. What it would print below that is raised as an exception as well.


def load_runtime() -> ModuleType:
    """Return the module `onnxruntime`, quiet on standard error and on the network.

    Raises:
        EngineUnavailable: it is not installed, or two builds of it are, of which one has overwritten the other.
    """
    check_wheels()
    # Its wheels report their use to Microsoft unless told not to, and begin when they are imported: a database and a
    # device id under ~/.cache, look-ups in the DNS. Whoever wants that sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # noqa: PLC0415  # 40 MB that `tandem --help` does not need
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be loaded ({error}); {install_extra('cpu', 'gpu')}"
        ) from error
    onnxruntime.set_default_logger_severity(_FATAL)
    runtime: ModuleType = onnxruntime
    return runtime


def check_wheels() -> None:
    """Check that at most one of the builds of ONNX Runtime is installed.

    Raises:
        EngineUnavailable: two are, of which one has overwritten the other.
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be trusted: {' and '.join(wheels)} are both installed and overwrite each "
            f"other's files; pip uninstall {' '.join(wheels)}, then {install_extra('cpu', 'gpu')}"
        )


def installed_wheels() -> list[str]:
    """Return which of the wheels that own the module `onnxruntime` are installed."""
    found = []
    for wheel in ("onnxruntime", GPU_WHEEL):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution(wheel)
            found.append(wheel)
    return found


def open_on_cpu(
    runtime: ModuleType, graph: bytes, *, threads: int | None = None, optimise: bool = True, file: str = MODEL
) -> Any:
    """Return a session of `graph` on the CPU, with as many threads as this process may keep busy unless told.

    Raises:
        DamagedArtifact: the bytes are no graph.
        OutOfDeviceMemory: they don't fit.
    """
    options = _options(runtime, threads or cpu_limit())
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return runtime.InferenceSession(graph, options, providers=[CPU], enable_fallback=0)
    except runtime_errors() as error:
        if is_memory(error):
            raise no_room(file, "cpu") from error
        raise DamagedArtifact(
            f"{file} can't be opened by onnxruntime {runtime.__version__} ({first_line(error)}); export it again"
        ) from error


def open_on_cuda(
    runtime: ModuleType, graph: bytes, *, index: int, fixed_sizes: dict[str, int] | None = None, file: str = MODEL
) -> Any:
    """Return a session of `graph` of which every node runs on GPU `index`.

    `fixed_sizes` are the graph's dimensions by their names. With all of them fixed, whatever computes shapes is folded
    away, which ONNX Runtime would else place on the CPU.

    Raises:
        EngineUnavailable: a part that CUDA needs is missing, or can't run all of the graph; the sentence says which.
        OutOfDeviceMemory: the GPU does not hold the graph.
    """
    check_cuda(runtime, index)
    device = f"cuda:{index}"
    options = _options(runtime, 1)
    options.use_deterministic_compute = True
    # Without this, ONNX Runtime runs on the CPU where CUDA does not load, and only logs.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for name, size in (fixed_sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # What it can't load it prints to standard output, which is for results.
        runtime.preload_dlls()
    try:
        providers = [(CUDA, {"device_id": str(index), **_CUDA_OPTIONS})]
        session = runtime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except runtime_errors() as error:
        if _is_memory(error, device):
            raise no_room(file, device) from error
        fact = said.getvalue().strip().partition("\n")[0] or first_line(error)
        raise EngineUnavailable(
            f"device '{device}' can't be had: onnxruntime-gpu {runtime.__version__} does not load on it ({fact}); "
            f"{install_extra('gpu')} brings the CUDA and cuDNN libraries, 'tandem doctor' shows the rest"
        ) from error
    # A second look, for a provider that is not the CPU's and not CUDA's.
    elsewhere = {part.ep_name for part in session.get_provider_graph_assignment_info()} - {CUDA}
    if elsewhere:
        raise EngineUnavailable(
            f"device '{device}' can't run all of {file}: {', '.join(sorted(elsewhere))} would run a part of it; "
            "choose device cpu"
        )
    return session


def check_cuda(runtime: ModuleType, index: int) -> Gpu:
    """Return GPU `index`, after the wheel, the driver and the GPU were found to fit each other.

    Raises:
        EngineUnavailable: they don't; the sentence says which.
    """
    asked = f"device 'cuda:{index}' can't be had"
    if CUDA not in runtime.get_available_providers():
        raise EngineUnavailable(
            f"{asked}: the installed onnxruntime {runtime.__version__} is built for the CPU alone; "
            f"pip uninstall onnxruntime, then {install_extra('gpu')}"
        )
    driver = nvidia_driver()
    if driver is None:
        raise EngineUnavailable(
            f"{asked}: no NVIDIA driver was found; install one, or start the container with --gpus all"
        )
    # Within one major version, CUDA runs on an older driver (minor version compatibility).
    if driver.cuda_version[0] < int(runtime.cuda_version.partition(".")[0]):
        raise EngineUnavailable(
            f"{asked}: the NVIDIA driver runs CUDA up to {driver.cuda}, and onnxruntime-gpu {runtime.__version__} "
            f"needs {runtime.cuda_version}; update the driver"
        )
    if index >= len(driver.gpus):
        raise EngineUnavailable(
            f"{asked}: the NVIDIA driver shows {counted(len(driver.gpus), 'GPU')} to this process; choose another "
            "index, or check CUDA_VISIBLE_DEVICES and the container's --gpus"
        )
    return driver.gpus[index]


def probe(device: str) -> None:
    """Run the smallest graph on `cpu` or `cuda:0`, to learn whether the device really works.

    Raises:
        EngineError: it doesn't.
    """
    runtime = load_runtime()
    session = open_on_cpu(runtime, PROBE) if device == "cpu" else open_on_cuda(runtime, PROBE, index=0)
    run_session(session, ["y"], {"x": np.full((1, 1, 1, 1), 2, dtype=np.float32)}, device=device)


def run_session(session: Any, outputs: list[str], inputs: dict[str, Any], *, device: str) -> list[Any]:
    """Return the named outputs for `inputs`.

    Raises:
        OutOfDeviceMemory: the device does not hold what the run needs.
        EngineError: the device failed.
    """
    with running(f"a batch of {counted(len(next(iter(inputs.values()))), 'image')}", device=device):
        values: list[Any] = session.run(outputs, inputs)
    return values


@contextlib.contextmanager
def running(what: str, *, device: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises while it runs `what` into an error of ours.

    Raises:
        OutOfDeviceMemory: the device does not hold what the run needs.
        EngineError: the device failed.
    """
    try:
        yield
    except runtime_errors() as error:
        if _is_memory(error, device):
            raise no_room(what, device) from error
        raise EngineError(
            f"onnxruntime failed on {device} ({first_line(error)}); 'tandem doctor' shows what it needs"
        ) from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime. They have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415  # see load_runtime

    return (
        state.EPFail,
        state.EngineError,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        # What pybind11 makes of other C++ exceptions, and of text in a graph that is not UTF-8.
        MemoryError,
        RuntimeError,
        ValueError,
    )


def first_line(error: Exception) -> str:
    """Return the gist of an error that ONNX Runtime raised, whose whole is many lines."""
    line = str(error).strip().partition("\n")[0].removeprefix("[ONNXRuntimeError] : ")
    # Of a call of CUDA's libraries the fact stands behind the file, the template and its arguments.
    failure = _CUDA_FAILURE.search(line)
    return (failure[0] if failure else line)[:300]


def _is_memory(error: Exception, device: str) -> bool:
    """Return whether memory is full: a guess where cuDNN and cuBLAS found too little, who only say that they failed."""
    if is_memory(error):
        return True
    if not device.startswith("cuda:") or not _LIBRARY_FAILURE.search(str(error)):
        return False
    free = free_memory(int(device.partition(":")[2]))
    return free is not None and free < _LIBRARIES_BYTES


def _options(runtime: ModuleType, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores on which images are decoded. Measured with resnet18 and
    # mobilenet_v3_small on 2 cores: 17 to 80 % more CPU time for the same images, and fewer of them per second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A graph that was given as bytes may name files for its weights, relative to the working directory, whose digest
    # nobody checks. Under this path there is none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options
