"""What OpenVINO compiles: at the precision that was asked for, or an error; kept for the next time."""

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

from classifier.engines.cache import entry_path, read_entry, write_entry
from classifier.engines.graphs import PROBE, is_memory, no_room
from classifier.errors import EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import cpu_limit, cpu_of_onednn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from classifier.engines import Tuning
    from classifier.types import Precision

log = logging.getLogger(__name__)

ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
"""What pybind11 makes of OpenVINO's exceptions, and of those of C++."""

# In what OpenVINO computes what a graph leaves open: an int8 graph says of each layer whether it is quantised.
_FLOATS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# What convolutions and matrix products must then have been compiled for: some for the first, all for either.
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
        EngineUnavailable: it is not installed, or can't be loaded.
    """
    try:
        with _without_converter():
            import openvino  # noqa: PLC0415  # a quarter of a second that only this engine needs
    except ImportError as error:
        raise EngineUnavailable(f"engine 'openvino' can't be loaded ({error}); {install_extra('openvino')}") from error
    runtime: ModuleType = openvino
    return runtime


def _core() -> Any:
    """Return OpenVINO's core: one for the whole process, as its makers advise, held until that ends.

    A core's CPU plugin gives the thread that loads it a stack for signal handlers, and unmaps it when core and models
    are gone: also one that the thread still has, where another thread releases them, or comes back to, where two cores
    went in the order in which they came. Python's handlers run on that stack, so the next Ctrl-C would crash.
    """
    with _LOCK:  # The cache alone would let two threads make one each.
        return _only_core()


@cache
def _only_core() -> Any:
    return load_openvino().Core()


@contextmanager
def _without_converter() -> Iterator[None]:
    """Keep `import openvino` from importing its model converter, which it can do without.

    The converter reports each import to its makers through Google Analytics, without asking, and takes longer to import
    than all the rest. Who wants it can import it afterwards.
    """
    converter = "openvino.tools.ovc"
    if converter in sys.modules:
        yield
        return
    sys.modules[converter] = None  # type: ignore[assignment]  # how Python spells "can't be imported"
    try:
        yield
    finally:
        del sys.modules[converter]


def probe() -> None:
    """Run the smallest graph, to learn whether OpenVINO really works.

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
            f"openvino {runtime.__version__} runs no graph here ({gist(error)}); choose engine onnxruntime"
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
    """Return the graph that `read` gives compiled for the CPU, and what must be held as long as that is used.

    For the arguments see `OpenVinoEngine`.

    Raises:
        EngineUnavailable: OpenVINO isn't installed, or doesn't run this graph at this precision.
        OutOfDeviceMemory: memory does not hold the graph.
    """
    runtime = load_openvino()
    if precision not in _FLOATS:
        raise EngineUnavailable(f"engine 'openvino' does not run {precision}; choose {', '.join(_FLOATS)}")
    properties = {
        "INFERENCE_PRECISION_HINT": _FLOATS[precision],
        "INFERENCE_NUM_THREADS": threads or cpu_limit(),
        "PERFORMANCE_HINT": tuning.upper(),
        # Pinned, the threads of two processes on one machine share its first cores, and leave the last ones idle.
        "ENABLE_CPU_PINNING": False,
        # Would quantise what the graph does not: its accuracy was not measured.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    with ThreadPoolExecutor(1) as pool:
        # While it is read, and its digest checked, what was compiled before is loaded. Damage is found in either.
        graph = pool.submit(read)
        name = f"{digest}/{file}" if digest else hashlib.sha256(graph.result()).hexdigest()
        key = ("openvino", runtime.__version__, cpu_of_onednn().instruction_set, _FLOATS[precision], name)
        entry = entry_path(*key)
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
    """Return the last line of an error of OpenVINO: those above say where in its source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _load(runtime: ModuleType, contents: memoryview, properties: dict[str, object]) -> Any:
    """Return the model that an earlier process compiled, which uses `contents` in place; None where it can't load."""
    try:
        exported = runtime.Tensor(np.frombuffer(contents, dtype=np.uint8), shared_memory=True)
        return _core().import_model(exported, "CPU", properties)
    except ERRORS as error:
        log.debug("What was compiled before can't be loaded, and is compiled anew: %s", gist(error))
        return None


def _compile(graph: bytes, properties: dict[str, object], *, file: str) -> Any:
    core = _core()
    try:
        return core.compile_model(core.read_model(graph), "CPU", properties)
    except ERRORS as error:
        if is_memory(error):
            raise no_room(file, "cpu") from error
        # Not called damaged: OpenVINO also refuses sound graphs. Of a damaged one ONNX Runtime will say so.
        raise EngineUnavailable(
            f"engine 'openvino' can't open {file} ({gist(error)}); choose engine onnxruntime"
        ) from error


def _keep(entry: Path, compiled: Any) -> None:
    """Write what was compiled to `entry` for the next time; where OpenVINO can't export it, do nothing."""
    try:
        contents = compiled.export_model().getvalue()
    except ERRORS as error:
        log.debug("What was compiled is not kept: %s", gist(error))
        return
    write_entry(entry, contents)


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
