"""The installed ONNX Runtime: which build it is, and whether that build can use a GPU."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from typing import TYPE_CHECKING

from classifier.engines.nvidia import Gpu, nvidia_driver
from classifier.errors import EngineUnavailable
from classifier.extras import install_extra
from classifier.wording import counted

if TYPE_CHECKING:
    from types import ModuleType

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
GPU_WHEEL = "onnxruntime-gpu"
FATAL = 4
"""ONNX Runtime's log level for fatal errors only: everything below it is raised as an exception as well."""


def load_runtime() -> ModuleType:
    """Return the module `onnxruntime`, with its logging and telemetry turned off.

    Raises:
        EngineUnavailable: it is not installed, or two builds of it overwrite each other.
    """
    check_wheels()
    # Importing a wheel from Microsoft starts telemetry: a database and a device id under ~/.cache, and DNS look-ups.
    # To keep telemetry, set the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # noqa: PLC0415  # 40 MB that `tandem --help` does not need
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be loaded ({error}); {install_extra('cpu', 'gpu')}"
        ) from error
    onnxruntime.set_default_logger_severity(FATAL)
    runtime: ModuleType = onnxruntime
    return runtime


def check_wheels() -> None:
    """Check that at most one build of ONNX Runtime is installed.

    Raises:
        EngineUnavailable: both builds are installed, and one has overwritten files of the other.
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise EngineUnavailable(
            f"engine 'onnxruntime' can't be trusted: {' and '.join(wheels)} are both installed and overwrite each "
            f"other's files; {install_extra('cpu', 'gpu', instead_of=' '.join(wheels))}"
        )


def installed_wheels() -> list[str]:
    """Return the installed wheels that contain the module `onnxruntime`."""
    found = []
    for wheel in ("onnxruntime", GPU_WHEEL):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution(wheel)
            found.append(wheel)
    return found


def check_cuda(runtime: ModuleType, index: int) -> Gpu:
    """Return GPU `index`, after checking that the wheel, the driver and the GPU fit together.

    Raises:
        EngineUnavailable: one of them is missing or too old; the message says which.
    """
    unavailable = f"device 'cuda:{index}' is not available"
    if CUDA not in runtime.get_available_providers():
        raise EngineUnavailable(
            f"{unavailable}: the installed onnxruntime {runtime.__version__} is a build for the CPU only; "
            f"{install_extra('gpu', instead_of='onnxruntime')}"
        )
    driver = nvidia_driver()
    if driver is None:
        raise EngineUnavailable(
            f"{unavailable}: no NVIDIA driver was found; install one, or start the container with --gpus all"
        )
    # Within one major version, CUDA runs on an older driver ("minor version compatibility").
    if driver.cuda_version[0] < int(runtime.cuda_version.partition(".")[0]):
        raise EngineUnavailable(
            f"{unavailable}: the NVIDIA driver supports CUDA up to {driver.cuda}, but onnxruntime-gpu "
            f"{runtime.__version__} needs {runtime.cuda_version}; update the driver"
        )
    if index >= len(driver.gpus):
        raise EngineUnavailable(
            f"{unavailable}: the NVIDIA driver shows {counted(len(driver.gpus), 'GPU')} to this process; choose "
            "another index, or check CUDA_VISIBLE_DEVICES and the container's --gpus"
        )
    return driver.gpus[index]
