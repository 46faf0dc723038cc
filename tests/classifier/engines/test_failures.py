"""Failures of ONNX Runtime: full memory is told from other failures."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.engines import failures, sessions
from classifier.errors import OutOfDeviceMemory, TandemError


def test_memory_messages_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of CUDA, cuDNN, cuBLAS and ONNX Runtime about full memory are recognised.

    cuDNN may not say so: then the free memory that the driver reports decides.
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
        monkeypatch.setattr(failures, "free_memory", lambda index, free=free: free)
        assert isinstance(error_of(started), OutOfDeviceMemory) == full
        assert full or said in str(error_of(started))
    other = error_of("CUDA failure 700: an illegal memory access was encountered")
    assert not isinstance(other, OutOfDeviceMemory)
    assert "onnxruntime failed on cuda:0 (CUDA failure 700" in str(other)
