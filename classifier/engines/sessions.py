"""Sessions of ONNX Runtime, opened on the requested device or refused with the reason."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.failures import first_line, is_out_of_memory, out_of_memory, running, runtime_errors
from classifier.engines.graphs import PROBE
from classifier.engines.runtime import CPU, CUDA, FATAL, check_cuda, load_runtime
from classifier.errors import DamagedArtifact, EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import cpu_limit
from classifier.wording import counted

if TYPE_CHECKING:
    from types import ModuleType

_CUDA_OPTIONS = {
    # TF32 has 10 bits of mantissa: fp32 in name only.
    "use_tf32": "0",
    # EXHAUSTIVE times the algorithms, and may choose another one each time; HEURISTIC chooses by shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Takes only the memory it needs, not the next power of two: other programs may use the GPU, too.
    "arena_extend_strategy": "kSameAsRequested",
}


def open_on_cpu(
    runtime: ModuleType, graph: bytes, *, threads: int | None = None, optimise: bool = True, file: str = MODEL
) -> Any:
    """Return a session of `graph` on the CPU; `threads` defaults to the CPUs that this process may use.

    Raises:
        DamagedArtifact: the bytes are not an ONNX graph.
        OutOfDeviceMemory: the graph does not fit into memory.
    """
    options = _options(runtime, threads or cpu_limit())
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return runtime.InferenceSession(graph, options, providers=[CPU], enable_fallback=0)
    except runtime_errors() as error:
        if is_out_of_memory(error, "cpu"):
            raise out_of_memory(file, "cpu") from error
        raise DamagedArtifact(
            f"{file} can't be opened by onnxruntime {runtime.__version__} ({first_line(error)}); export it again"
        ) from error


def open_on_cuda(
    runtime: ModuleType, graph: bytes, *, index: int, fixed_sizes: dict[str, int] | None = None, file: str = MODEL
) -> Any:
    """Return a session of `graph` that runs every node on GPU `index`.

    `fixed_sizes` maps names of the graph's dimensions to sizes. If all dimensions are fixed, ONNX Runtime folds away
    the nodes that compute shapes, which it would otherwise place on the CPU.

    Raises:
        EngineUnavailable: a part of CUDA is missing, or CUDA can't run all of the graph; the message says which.
        OutOfDeviceMemory: the graph does not fit into the GPU's memory.
    """
    check_cuda(runtime, index)
    device = f"cuda:{index}"
    options = _options(runtime, 1)
    options.use_deterministic_compute = True
    # Else ONNX Runtime would run on the CPU if CUDA does not load, and only log it.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for name, size in (fixed_sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # It prints the libraries that it can't load; stdout is for results.
        runtime.preload_dlls()
    try:
        providers = [(CUDA, {"device_id": str(index), **_CUDA_OPTIONS})]
        session = runtime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except runtime_errors() as error:
        if is_out_of_memory(error, device):
            raise out_of_memory(file, device) from error
        fact = printed.getvalue().strip().partition("\n")[0] or first_line(error)
        raise EngineUnavailable(
            f"device '{device}' is not available: onnxruntime-gpu {runtime.__version__} does not load on it ({fact}); "
            f"for the CUDA and cuDNN libraries {install_extra('gpu')}; 'tandem doctor' shows the rest"
        ) from error
    _check_assignment(session, device, file=file)
    return session


def _check_assignment(session: Any, device: str, *, file: str) -> None:
    """Check that CUDA runs all nodes: `disable_cpu_ep_fallback` keeps them off the CPU, not off other providers."""
    elsewhere = {part.ep_name for part in session.get_provider_graph_assignment_info()} - {CUDA}
    if elsewhere:
        raise EngineUnavailable(
            f"device '{device}' can't run all of {file}: {', '.join(sorted(elsewhere))} would run a part of it; "
            "choose device cpu"
        )


def run_session(session: Any, outputs: list[str], inputs: dict[str, Any], *, device: str) -> list[Any]:
    """Return the named outputs for `inputs`.

    Raises:
        OutOfDeviceMemory: the device has too little memory for the run.
        EngineError: the device failed.
    """
    with running(f"a batch of {counted(len(next(iter(inputs.values()))), 'image')}", device=device):
        values: list[Any] = session.run(outputs, inputs)
    return values


def probe(device: str) -> None:
    """Run the smallest graph on `cpu` or `cuda:0`, to check that the device really works.

    Raises:
        EngineError: it doesn't.
    """
    runtime = load_runtime()
    session = open_on_cpu(runtime, PROBE) if device == "cpu" else open_on_cuda(runtime, PROBE, index=0)
    run_session(session, ["y"], {"x": np.full((1, 1, 1, 1), 2, dtype=np.float32)}, device=device)


def _options(runtime: ModuleType, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores that decode images. Measured with resnet18 and mobilenet_v3_small on
    # 2 cores, spinning costs 17 to 80 % more CPU time per image, and gives fewer images per second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A graph given as bytes may name weight files relative to the working directory, which no digest covers. Nothing
    # exists under this path, so that such a graph fails.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options
