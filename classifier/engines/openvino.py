"""OpenVINO on the CPU."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.cache import entry_path, read_entry, write_entry
from classifier.engines.graphs import OUTPUT, PROBE, check_images, check_numbers, is_memory, no_room, not_a_classifier
from classifier.engines.hardware import cpu_limit, cpu_of_onednn
from classifier.errors import EngineError, EngineUnavailable
from classifier.types import EngineInfo, Precision

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from classifier.engines import Tuning

log = logging.getLogger(__name__)

NAME = "openvino"
EXECUTION_SIZE = 8
"""Images per execution unless told otherwise: more at once were no faster (resnet50, bf16 and int8)."""

# In what OpenVINO computes that a graph leaves open: an int8 graph says of each layer whether it is quantised.
_FLOATS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# What convolutions and matrix products must then have run in, the first in at least one of them.
_EXECUTED: dict[Precision, tuple[frozenset[str], frozenset[str]]] = {
    "fp32": (frozenset({"f32"}), frozenset()),
    "bf16": (frozenset({"bf16"}), frozenset({"f32"})),
    "int8": (frozenset({"i8", "u8"}), frozenset({"f32"})),
}
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})

# What pybind11 makes of OpenVINO's exceptions, and of those of C++.
_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)


class OpenVinoEngine:
    """A graph in OpenVINO on the CPU. Safe to call from several threads.

    Attributes:
        info: what runs.
        crop_size: the height and width that the graph takes.
        classes: how many scores it gives for each image.
        busy_size: how many images occupy all of OpenVINO's streams.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
        file: str = MODEL,
    ) -> None:
        """Compile `graph`, or load what an earlier process compiled.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`.
            precision: of convolutions and matrix products. `int8` wants a quantised graph.
            threads: of the CPU; None takes as many as this process may keep busy.
            batch_size: images per execution, at most.
            tuning: `latency` gives each execution all threads, `throughput` runs several beside each other.
            file: the graph's name in its artifact, for messages.

        Raises:
            EngineUnavailable: OpenVINO isn't installed, or doesn't run this graph at this precision.
            DamagedArtifact: the graph is no classifier of images.
            OutOfDeviceMemory: memory does not hold the graph.
        """
        check_numbers(threads=threads, batch_size=batch_size)
        runtime = load_openvino()
        version = runtime.__version__
        cpu = cpu_of_onednn()
        properties = {
            "INFERENCE_PRECISION_HINT": _floats(precision),
            "INFERENCE_NUM_THREADS": threads or cpu_limit(),
            "PERFORMANCE_HINT": tuning.upper(),
            # Pinned, the threads of two processes on one machine share its first cores, and leave the last ones idle.
            "ENABLE_CPU_PINNING": False,
            # Would quantise what the graph does not: its accuracy was not measured.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        key = (NAME, version, cpu.instruction_set, _FLOATS[precision], hashlib.sha256(graph).hexdigest())
        compiled = _load(runtime, key, properties) or _compile(runtime, graph, properties, key=key, file=file)
        _check_executed(compiled, precision, file=file)
        self.crop_size, self.classes = _inspect(compiled, file=file)
        self.info = EngineInfo(
            name=NAME,
            version=version.partition("-")[0],
            device="cpu",
            precision=precision,
            instruction_set=cpu.instruction_set,
        )
        self._runtime = runtime
        self._execution_size = batch_size or EXECUTION_SIZE
        self._streams: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.busy_size = self._streams * self._execution_size
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # Starts its threads when they are needed.
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix=NAME)

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: OpenVINO failed.
        """
        check_images(images_nhwc, size=self.crop_size)
        total = len(images_nhwc)
        if total == 0:
            return np.empty((0, self.classes), dtype=np.float32)
        size = min(self._execution_size, -(-total // self._streams))
        parts = [images_nhwc[start : start + size] for start in range(0, total, size)]
        run_part = map if self._streams == 1 else self._pool.map
        return np.concatenate(list(run_part(self._execute, parts)))

    def _execute(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = self._requests.get()
        try:
            images = self._runtime.Tensor(np.ascontiguousarray(images_nhwc), shared_memory=True)
            request.set_input_tensor(images)
            request.infer()
            scores: NDArray[np.float32] = request.get_tensor(OUTPUT).data.copy()
        except _ERRORS as error:
            if is_memory(error):
                raise no_room(f"a batch of {len(images_nhwc)} images", "cpu") from error
            raise EngineError(f"openvino failed ({_gist(error)}); choose engine onnxruntime") from error
        finally:
            self._requests.put(request)
        return scores


def load_openvino() -> ModuleType:
    """Return the module `openvino`.

    Raises:
        EngineUnavailable: it is not installed, or can't be loaded.
    """
    try:
        import openvino  # noqa: PLC0415  # half a second that only this engine needs
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'openvino' can't be loaded ({error}); pip install 'tandem[openvino]'"
        ) from error
    runtime: ModuleType = openvino
    return runtime


def probe() -> None:
    """Run the smallest graph, to learn whether OpenVINO really works.

    Raises:
        EngineUnavailable: it doesn't.
    """
    runtime = load_openvino()
    try:
        core = runtime.Core()
        request = core.compile_model(core.read_model(PROBE), "CPU", {}).create_infer_request()
        request.infer([np.full((1, 1, 1, 1), 2, dtype=np.float32)])
    except _ERRORS as error:
        raise EngineUnavailable(
            f"openvino {runtime.__version__} runs no graph here ({_gist(error)}); choose engine onnxruntime"
        ) from error


def _floats(precision: Precision) -> str:
    if precision not in _FLOATS:
        raise EngineUnavailable(f"engine 'openvino' does not run {precision}; choose {', '.join(_FLOATS)}")
    return _FLOATS[precision]


def _load(runtime: ModuleType, key: tuple[str, ...], properties: dict[str, object]) -> Any:
    """Return the model that an earlier process compiled, None where there is none that can be used."""
    path = entry_path(*key)
    if path is None or (contents := read_entry(path)) is None:
        return None
    try:
        blob = runtime.Tensor(np.frombuffer(contents, dtype=np.uint8))
        return runtime.Core().import_model(blob, "CPU", properties)
    except _ERRORS as error:
        log.debug("%s can't be loaded, and is compiled anew: %s", path, _gist(error))
        return None


def _compile(
    runtime: ModuleType, graph: bytes, properties: dict[str, object], *, key: tuple[str, ...], file: str
) -> Any:
    try:
        core = runtime.Core()
        compiled = core.compile_model(core.read_model(graph), "CPU", properties)
        contents = compiled.export_model().getvalue()
    except _ERRORS as error:
        if is_memory(error):
            raise no_room(file, "cpu") from error
        # Not called damaged: OpenVINO also refuses sound graphs. Of a damaged one ONNX Runtime will say so.
        raise EngineUnavailable(
            f"engine 'openvino' can't open {file} ({_gist(error)}); choose engine onnxruntime"
        ) from error
    if (path := entry_path(*key)) is not None:
        write_entry(path, contents)
    return compiled


def _check_executed(compiled: Any, precision: Precision, *, file: str) -> None:
    """Check that the graph was compiled for the CPU at `precision`: OpenVINO takes its properties for hints.

    Raises:
        EngineUnavailable: it wasn't.
    """
    devices = compiled.get_property("EXECUTION_DEVICES")
    layers = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
    ran = {layer["runtimePrecision"].astype(str) for layer in layers if layer["layerType"].astype(str) in _PRODUCTS}
    wanted, others = _EXECUTED[precision]
    if devices != ["CPU"] or not ran & wanted or not ran <= wanted | others:
        raise EngineUnavailable(
            f"engine 'openvino' would run {file} in {', '.join(sorted(ran)) or 'nothing'} on {', '.join(devices)} "
            f"instead of {precision} on the CPU; choose another precision, or engine onnxruntime"
        )


def _inspect(compiled: Any, *, file: str) -> tuple[int, int]:
    """Return the height and width that the graph takes, and how many classes it gives."""
    inputs = [(str(port.element_type.to_string()), _shape(port)) for port in compiled.inputs]
    outputs = {name: (port.element_type.to_string(), _shape(port)) for port in compiled.outputs for name in port.names}
    match inputs, outputs.get(OUTPUT):
        case [("u8", [None, int(height), int(width), 3])], ("f32", [_, int(classes)]) if height == width:
            return height, classes
    raise not_a_classifier(file, inputs=inputs, outputs=outputs)


def _shape(port: Any) -> list[int | None]:
    return [None if length.is_dynamic else length.get_length() for length in port.partial_shape]


def _gist(error: Exception) -> str:
    """Return the last line of an error of OpenVINO: those above say where in its source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
