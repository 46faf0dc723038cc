"""Exceptions of the inference libraries → Tandem's errors; full memory is told from other failures.

An export writes some of these messages into evaluation.json: rewording one changes the digests of such models.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from classifier.engines.nvidia import free_memory
from classifier.errors import EngineError, OutOfDeviceMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_OUT_OF_MEMORY = (
    *("failed to allocate", "smaller than requested bytes", "resource allocation failed"),
    *("out of memory", "alloc_failed", "bad_alloc"),
)
_LIBRARIES_BYTES = 2**30
"""More than cuDNN and cuBLAS need for themselves: if they fail with less free memory, that is the reason."""
_LIBRARY_FAILURE = re.compile(r"\b(CUDNN|CUBLAS) failure")
_CUDA_FAILURE = re.compile(r"\b[A-Z]+ failure \d+: [^;]*[^; ]")


@contextlib.contextmanager
def running(what: str, *, device: str) -> Iterator[None]:
    """Turn exceptions of ONNX Runtime into Tandem's errors, while it runs `what`, such as `a batch of 8 images`.

    Raises:
        OutOfDeviceMemory: the device has too little memory.
        EngineError: the device failed.
    """
    try:
        yield
    except runtime_errors() as error:
        if is_out_of_memory(error, device):
            raise out_of_memory(what, device) from error
        raise EngineError(
            f"onnxruntime failed on {device} ({first_line(error)}); 'tandem doctor' shows what it needs"
        ) from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exception types of ONNX Runtime, which have no common base."""
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
        # pybind11 raises these for other C++ exceptions, and for text in a graph that is not UTF-8.
        MemoryError,
        RuntimeError,
        ValueError,
    )


def first_line(error: Exception) -> str:
    """Return the gist of an ONNX Runtime error, whose message has many lines."""
    line = str(error).strip().partition("\n")[0].removeprefix("[ONNXRuntimeError] : ")
    # In an error of a CUDA library, the fact comes after the file, the template and its arguments.
    failure = _CUDA_FAILURE.search(line)
    return (failure[0] if failure else line)[:300]


def is_out_of_memory(error: Exception, device: str) -> bool:
    """Return whether an engine failed on `device` because memory is full; no library has an exception type for it.

    cuDNN and cuBLAS may not even say it: then little free memory on the GPU decides.
    """
    message = str(error).lower()
    if isinstance(error, MemoryError) or any(sign in message for sign in _OUT_OF_MEMORY):
        return True
    if not device.startswith("cuda:") or not _LIBRARY_FAILURE.search(str(error)):
        return False
    free = free_memory(int(device.partition(":")[2]))
    return free is not None and free < _LIBRARIES_BYTES


def out_of_memory(what: str, device: str) -> OutOfDeviceMemory:
    """Return the error for `what`, such as `a batch of 8 images`, when it does not fit into the device's memory."""
    return OutOfDeviceMemory(
        f"{what} does not fit into the free memory of {device}; free some, or choose a smaller batch size"
    )
