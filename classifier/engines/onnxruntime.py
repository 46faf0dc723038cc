"""ONNX Runtime on the CPU and on CUDA, strict: what was asked for runs, or an error says why it can't."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.hardware import cpu_instruction_set, cpu_limit, nvidia_driver
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable, OutOfDeviceMemory
from classifier.types import EngineInfo, Precision

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NAME = "onnxruntime"
OUTPUT = "probabilities"
BATCH_SIZE = 32
"""Images per execution unless told otherwise: it bounds the memory of one. On CUDA each has just this size."""

_CUDA_OPTIONS = {
    # TF32 has 10 bits of mantissa: fp32 in name only.
    "use_tf32": "0",
    # EXHAUSTIVE times the algorithms and may choose another each time; HEURISTIC chooses by shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Take from the device what is needed, not the next power of two: others may use it too.
    "arena_extend_strategy": "kSameAsRequested",
}
_MEMORY_MESSAGES = ("failed to allocate memory", "out of memory", "alloc_failed", "bad_alloc", "bad allocation")
_FATAL_ONLY = 4


class OnnxRuntimeEngine:
    """A graph in ONNX Runtime on one device.

    Attributes:
        info: what runs.
        crop_size: the height and width that the graph takes.
        classes: how many scores it gives for each image.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Open `graph` on `device`.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`.
            device: `cpu`, `cuda` or `cuda:1`.
            precision: the arithmetic of the graph, as it is recorded.
            threads: of the CPU; None takes as many as this process may keep busy.
            batch_size: images per execution; on CUDA a smaller number is padded to it, so that the kernels, and with
                them the bits of the scores, are always the same.

        Raises:
            EngineUnavailable: the device can't be had.
            DamagedArtifact: the bytes are no such graph.
            OutOfDeviceMemory: the device does not hold the graph.
        """
        runtime = load_runtime()
        kind, index = parse_device(device)
        self._batch_size = batch_size or BATCH_SIZE
        # Opening on the CPU first tells a damaged graph from a device that can't be had. It costs little: CUDA needs
        # the graph's input anyway, and nothing is optimised in this pass.
        session = open_session(
            runtime, graph, _options(runtime, threads, optimise=kind == "cpu"), "CPUExecutionProvider"
        )
        self._input, self.crop_size, self.classes = _inspect(session)
        instruction_set = cpu_instruction_set()
        if kind == "cuda":
            instruction_set = check_cuda(runtime, index)
            session = _open_on_cuda(runtime, graph, session, index=index, batch_size=self._batch_size)
        self._session = session
        self.info = EngineInfo(
            name=NAME,
            version=runtime.__version__,
            device="cpu" if kind == "cpu" else f"cuda:{index}",
            precision=precision,
            instruction_set=instruction_set,
            batch_size=None if kind == "cpu" else self._batch_size,
        )

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """
        size = self.crop_size
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != (size, size, 3):
            raise ValueError(
                f"the graph takes uint8 [N, {size}, {size}, 3], got {images_nhwc.dtype} {list(images_nhwc.shape)}"
            )
        scores = np.empty((len(images_nhwc), self.classes), dtype=np.float32)
        for start in range(0, len(images_nhwc), self._batch_size):
            batch = images_nhwc[start : start + self._batch_size]
            scores[start : start + len(batch)] = self._run_batch(batch)[: len(batch)]
        return scores

    def _run_batch(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        missing = 0 if self.info.batch_size is None else self.info.batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), dtype=np.uint8)])
        try:
            (scores,) = self._session.run([OUTPUT], {self._input: np.ascontiguousarray(batch)})
        except _runtime_errors() as error:
            raise _run_error(error, self.info.device, self._batch_size) from error
        assert isinstance(scores, np.ndarray)
        return scores


def load_runtime() -> ModuleType:
    """Return the module `onnxruntime`, quiet on standard error.

    Raises:
        EngineUnavailable: it is not installed, or two builds of it are, of which one has overwritten the other.
    """
    installed = installed_wheels()
    if len(installed) > 1:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be trusted: {' and '.join(installed)} are both installed and overwrite each "
            f"other's files; pip uninstall {' '.join(installed)}, then pip install 'tandem[cpu]' or 'tandem[gpu]'"
        )
    try:
        import onnxruntime  # noqa: PLC0415  # 60 ms and 40 MB that `tandem --help` does not need
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be loaded ({error}); pip install 'tandem[cpu]', or 'tandem[gpu]' for CUDA"
        ) from error
    # All that it would print is raised as an exception as well.
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    assert isinstance(onnxruntime, type(logging))
    return onnxruntime


def installed_wheels() -> list[str]:
    """Return which wheels that own the module `onnxruntime` are installed, with their versions not looked at."""
    found = []
    for wheel in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution(wheel)
            found.append(wheel)
    return found


def parse_device(device: str) -> tuple[str, int]:
    """Return the kind of a device and its index: `cpu` is ("cpu", 0), `cuda:1` is ("cuda", 1).

    Raises:
        EngineUnavailable: there is no such kind.
    """
    kind, colon, index = device.partition(":")
    if kind == "cuda" and (index.isdecimal() or not colon):
        return kind, int(index or 0)
    if device == "cpu":
        return kind, 0
    raise EngineUnavailable(f"engine 'onnxruntime' has no device '{device}'; choose auto, cpu, cuda or cuda:N")


def check_cuda(runtime: ModuleType, index: int) -> str:
    """Return the compute capability of GPU `index`, `sm_90`, after every part that CUDA needs was found.

    ONNX Runtime itself lists CUDA where it can't load, and then runs on the CPU.

    Raises:
        EngineUnavailable: a part is missing; the sentence says which.
    """
    asked = f"device 'cuda:{index}' can't be had"
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise EngineUnavailable(
            f"{asked}: the installed onnxruntime {runtime.__version__} is built for the CPU alone; "
            "pip uninstall onnxruntime, then pip install 'tandem[gpu]'"
        )
    driver = nvidia_driver()
    if driver is None:
        raise EngineUnavailable(
            f"{asked}: no NVIDIA driver was found; install one, or start the container with --gpus all"
        )
    if driver.cuda_version[0] < int(runtime.cuda_version.partition(".")[0]):
        have = ".".join(map(str, driver.cuda_version))
        raise EngineUnavailable(
            f"{asked}: the NVIDIA driver runs CUDA up to {have}, and onnxruntime-gpu {runtime.__version__} needs "
            f"{runtime.cuda_version}; update the driver"
        )
    if index >= len(driver.gpus):
        raise EngineUnavailable(
            f"{asked}: the NVIDIA driver shows {len(driver.gpus)} GPUs to this process; choose another index, or check "
            "CUDA_VISIBLE_DEVICES and the container's --gpus"
        )
    return driver.gpus[index].compute_capability


def open_session(
    runtime: ModuleType, graph: bytes, options: Any, provider: str, provider_options: dict[str, str] | None = None
) -> Any:
    """Return a session of `graph` with one provider and no other to fall back to.

    Raises:
        DamagedArtifact: the CPU provider can't read the graph.
        EngineUnavailable: another provider can't run it.
        OutOfDeviceMemory: the device does not hold it.
    """
    try:
        return runtime.InferenceSession(
            graph, options, providers=[(provider, provider_options or {})], enable_fallback=0
        )
    except _runtime_errors() as error:
        if _is_memory(error):
            raise OutOfDeviceMemory(
                f"the model does not fit into the memory of {provider}; free some, or choose another device"
            ) from error
        if provider == "CPUExecutionProvider":
            raise DamagedArtifact(
                f"{MODEL} can't be opened by onnxruntime {runtime.__version__} ({_first_line(error)}); export it again"
            ) from error
        raise EngineUnavailable(_first_line(error)) from error


def _open_on_cuda(runtime: ModuleType, graph: bytes, inspected: Any, *, index: int, batch_size: int) -> Any:
    options = _options(runtime, 1, optimise=True)
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    batch_dimension = inspected.get_inputs()[0].shape[0]
    if isinstance(batch_dimension, str):
        # With a fixed batch, whatever computes shapes is folded away; it would be placed on the CPU.
        options.add_free_dimension_override_by_name(batch_dimension, batch_size)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # It prints what it can't load to standard output, which is for results.
        runtime.preload_dlls()
    try:
        session = open_session(
            runtime, graph, options, "CUDAExecutionProvider", {"device_id": str(index), **_CUDA_OPTIONS}
        )
    except EngineUnavailable as error:
        fact = said.getvalue().strip().partition("\n")[0] or str(error)
        raise EngineUnavailable(
            f"device 'cuda:{index}' can't be had: onnxruntime-gpu {runtime.__version__} does not load on it ({fact}); "
            "pip install 'tandem[gpu]' brings the CUDA and cuDNN libraries, 'tandem doctor' shows the rest"
        ) from error
    elsewhere = {
        part.ep_name for part in session.get_provider_graph_assignment_info() if part.ep_name != "CUDAExecutionProvider"
    }
    if elsewhere:
        raise EngineUnavailable(
            f"device 'cuda:{index}' can't run all of the graph: {', '.join(sorted(elsewhere))} would run a part of it; "
            "choose device cpu"
        )
    return session


def _options(runtime: ModuleType, threads: int | None, *, optimise: bool) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or cpu_limit()
    options.inter_op_num_threads = 1
    # Waiting threads would burn the cores on which images are decoded.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _inspect(session: Any) -> tuple[str, int, int]:
    """Return the name of the graph's input, its height and width, and the number of classes."""
    inputs, outputs = session.get_inputs(), {output.name: output for output in session.get_outputs()}
    output = outputs.get(OUTPUT)
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or output is None or output.type != "tensor(float)":
        raise DamagedArtifact(
            f"{MODEL} does not take one uint8 tensor and give float32 '{OUTPUT}'; export it with 'tandem export'"
        )
    match inputs[0].shape, output.shape:
        case [_, int(height), int(width), 3], [_, int(classes)] if height == width:
            return inputs[0].name, height, classes
    raise DamagedArtifact(
        f"{MODEL} takes {inputs[0].shape} and gives {output.shape}, not [N, H, H, 3] and [N, classes]; "
        "export it with 'tandem export'"
    )


def _runtime_errors() -> tuple[type[Exception], ...]:
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
        # From the Python layer around it, and what pybind11 makes of a C++ exception.
        RuntimeError,
        ValueError,
        MemoryError,
    )


def _run_error(error: Exception, device: str, batch_size: int) -> EngineError:
    if _is_memory(error):
        return OutOfDeviceMemory(
            f"a batch of {batch_size} images does not fit into the memory of {device}; choose a smaller batch size"
        )
    return EngineError(f"onnxruntime failed on {device} ({_first_line(error)}); 'tandem doctor' shows what it needs")


def _is_memory(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(part in message for part in _MEMORY_MESSAGES)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
