"""Graphs compiled by OpenVINO, at exactly the requested precision, and kept in the cache for next time."""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.engines.cache import Entry, find_entry, read_entry, write_entry
from classifier.engines.failures import is_out_of_memory, out_of_memory
from classifier.engines.graphs import PROBE
from classifier.engines.screening import screen_graph
from classifier.errors import EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import cpu_limit, cpu_of_onednn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from classifier.engines import Tuning
    from classifier.types import Precision

log = logging.getLogger(__name__)

ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
"""The exceptions of Python that pybind11 raises for those of OpenVINO and C++."""

# Precision → the type of all floating-point layers. An int8 graph marks its own quantised layers.
_FLOATS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Precision → (types of which a convolution or matrix product must have one, types that others may have).
_EXECUTED: dict[Precision, tuple[frozenset[str], frozenset[str]]] = {
    "fp32": (frozenset({"f32"}), frozenset()),
    "bf16": (frozenset({"bf16"}), frozenset({"f32"})),
    "int8": (frozenset({"i8", "u8"}), frozenset({"f32"})),
}
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})

_LOCK = threading.Lock()


def load_openvino() -> ModuleType:
    """Return the module `openvino`.

    Raises:
        EngineUnavailable: it is not installed, or fails to load.
    """
    try:
        with _without_converter():
            import openvino  # noqa: PLC0415  # a quarter of a second that only this engine needs
    except ImportError as error:
        raise EngineUnavailable(f"engine 'openvino' can't be loaded ({error}); {install_extra('openvino')}") from error
    runtime: ModuleType = openvino
    return runtime


def _core() -> Any:
    """Return OpenVINO's core: one for the whole process, as OpenVINO advises, kept until the process ends.

    A core's CPU plugin installs a signal stack in the thread that loads it, and unmaps that stack once the core and its
    models are gone. The thread may still use the stack then: if another thread released the core, or if two cores were
    released in the order of their creation. Python's signal handlers run on it, so the next Ctrl-C would crash.
    """
    with _LOCK:  # Without it, two threads could create a core each.
        return _only_core()


@cache
def _only_core() -> Any:
    return load_openvino().Core()


@contextmanager
def _without_converter() -> Iterator[None]:
    """Keep `import openvino` from importing its optional model converter, which others can import afterwards.

    The converter reports each import through Google Analytics, without asking, and takes longer to import than the
    rest of OpenVINO.
    """
    converter = "openvino.tools.ovc"
    if converter in sys.modules:
        yield
        return
    sys.modules[converter] = None  # type: ignore[assignment]  # None makes the import fail.
    try:
        yield
    finally:
        del sys.modules[converter]


def probe() -> None:
    """Run the smallest graph, to check that OpenVINO really works.

    Raises:
        EngineUnavailable: it doesn't.
    """
    runtime = load_openvino()
    try:
        core = _core()
        request = core.compile_model(core.read_model(PROBE), "CPU", {}).create_infer_request()
        request.infer([np.full((1, 1, 1, 1), 2, dtype=np.float32)])
    except ERRORS as error:
        raise EngineUnavailable(
            f"openvino {runtime.__version__} can't run a graph here ({gist(error)}); choose engine onnxruntime"
        ) from error


def open_compiled(
    read: Callable[[], bytes],
    *,
    precision: Precision,
    threads: int | None,
    tuning: Tuning,
    file: str,
    digest: str | None,
) -> tuple[Any, object]:
    """Return the graph from `read` compiled for the CPU, and an object to keep alive while it is used.

    For the arguments see `OpenVinoEngine`.

    Raises:
        EngineUnavailable: OpenVINO is not installed, or does not run this graph at this precision.
        DamagedArtifact: the graph needs other files, or may run without end.
        OutOfDeviceMemory: the graph does not fit into memory.
    """
    runtime = load_openvino()
    if precision not in _FLOATS:
        raise EngineUnavailable(f"engine 'openvino' does not run {precision}; choose {', '.join(_FLOATS)}")
    properties = {
        "INFERENCE_PRECISION_HINT": _FLOATS[precision],
        "INFERENCE_NUM_THREADS": threads or cpu_limit(),
        "PERFORMANCE_HINT": tuning.upper(),
        # With pinning, two processes would share the first cores and leave the last ones idle.
        "ENABLE_CPU_PINNING": False,
        # Would quantise more layers than the graph, whose accuracy was not measured.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }

    def read_screened() -> bytes:
        graph = read()
        screen_graph(graph, file=file)
        return graph

    with ThreadPoolExecutor(1) as pool:
        # Loads the compiled graph while the graph is read and its digest checked, so that damage is always found.
        graph = pool.submit(read_screened)
        name = f"{digest}/{file}" if digest else hashlib.sha256(graph.result()).hexdigest()
        key = ("openvino", runtime.__version__, cpu_of_onednn().instruction_set, _FLOATS[precision], name)
        entry = find_entry(*key)
        contents = None if entry is None else read_entry(entry)
        compiled = None if contents is None else _load(runtime, contents, properties)
        if compiled is None:
            contents, compiled = None, _compile(graph.result(), properties, file=file)
            if entry is not None:
                _keep(entry, compiled)
        graph.result()
    _check_executed(compiled, precision, file=file)
    return compiled, contents


def gist(error: Exception) -> str:
    """Return the last line of an OpenVINO error; the lines above say where in its source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _load(runtime: ModuleType, contents: memoryview, properties: dict[str, object]) -> Any:
    """Return the compiled model in a cache entry, which it uses in place; None if it does not load."""
    try:
        exported = runtime.Tensor(np.frombuffer(contents, dtype=np.uint8), shared_memory=True)
        return _core().import_model(exported, "CPU", properties)
    except ERRORS as error:
        log.debug("Compiling again: the compiled model does not load: %s", gist(error))
        return None


def _compile(graph: bytes, properties: dict[str, object], *, file: str) -> Any:
    core = _core()
    try:
        return core.compile_model(core.read_model(graph), "CPU", properties)
    except ERRORS as error:
        if is_out_of_memory(error, "cpu"):
            raise out_of_memory(file, "cpu") from error
        # Not DamagedArtifact: OpenVINO also refuses sound graphs. ONNX Runtime recognises damaged ones.
        raise EngineUnavailable(
            f"engine 'openvino' can't open {file} ({gist(error)}); choose engine onnxruntime"
        ) from error


def _keep(entry: Entry, compiled: Any) -> None:
    """Write the compiled model to `entry`; do nothing if OpenVINO can't export it."""
    try:
        contents = compiled.export_model().getvalue()
    except ERRORS as error:
        log.debug("The compiled model is not kept: %s", gist(error))
        return
    write_entry(entry, contents)


def _check_executed(compiled: Any, precision: Precision, *, file: str) -> None:
    """Check that OpenVINO really compiled the graph for the CPU at `precision`, which it takes as a hint.

    Raises:
        EngineUnavailable: it compiled something else.
    """
    devices = compiled.get_property("EXECUTION_DEVICES")
    layers = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
    ran = {layer["runtimePrecision"].astype(str) for layer in layers if layer["layerType"].astype(str) in _PRODUCTS}
    required, permitted = _EXECUTED[precision]
    if devices != ["CPU"] or not ran & required or not ran <= required | permitted:
        raise EngineUnavailable(
            f"engine 'openvino' would run {file} in {', '.join(sorted(ran)) or 'nothing'} on {', '.join(devices)} "
            f"instead of {precision} on the CPU; choose another precision, or engine onnxruntime"
        )
