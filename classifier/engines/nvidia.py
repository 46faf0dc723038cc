"""NVIDIA's driver, called through its own library: GPUs, free GPU memory, page-locked host memory.

Not `nvidia-smi`, which many containers lack and which ignores `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# From cuda.h: two of CUdevice_attribute, and CU_MEMHOSTREGISTER_PORTABLE.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_FOR_ALL_CONTEXTS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that this process may use.

    Attributes:
        name: `NVIDIA H200`.
        compute_capability: `sm_90`.
    """

    name: str
    compute_capability: str

    @property
    def kind(self) -> str:
        """Everything about a GPU that the bits of a score depend on: libraries also choose kernels by its size."""
        return f"{self.compute_capability} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaDriver:
    """The NVIDIA driver of this machine.

    Attributes:
        cuda_version: the newest CUDA that it supports, (13, 0).
        gpus: the GPUs by index, as `CUDA_VISIBLE_DEVICES` selects them.
    """

    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]

    @property
    def cuda(self) -> str:
        """The newest CUDA that it supports, `13.0`."""
        return ".".join(map(str, self.cuda_version))


def nvidia_driver() -> NvidiaDriver | None:
    """Return the NVIDIA driver and its GPUs, or None if none is installed. Takes no GPU memory."""
    driver = _load_driver()
    if driver is None:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return NvidiaDriver(cuda_version=(version.value // 1000, version.value % 1000 // 10), gpus=_gpus(driver))


def _load_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return None


def _gpus(driver: ctypes.CDLL) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    gpus = []
    for index in range(count.value):
        device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
        gpus.append(Gpu(name=name.value.decode(errors="replace"), compute_capability=f"sm_{major.value}{minor.value}"))
    return tuple(gpus)


def free_memory(index: int) -> int | None:
    """Return the free memory of GPU `index` in bytes; None if the driver does not tell."""
    driver, free, total = _load_driver(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver is None:
        return None
    with _context(driver, index) as current:
        if not current or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
            return None
    return free.value


def page_lock(array: NDArray[np.uint8], *, index: int) -> NDArray[np.uint8]:
    """Return `array`, its memory page-locked for GPU `index` for as long as the array lives.

    A GPU reads page-locked memory directly; other memory the driver copies first. If the driver refuses, as under a
    limit on locked memory, the array is only slower to read.
    """
    driver = _load_driver()
    if driver is None:
        return array
    address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
    with _context(driver, index) as current:
        failed = not current or driver.cuMemHostRegister_v2(address, size, _FOR_ALL_CONTEXTS) != 0
    if failed:
        log.debug("The driver does not lock %s bytes of memory", f"{array.nbytes:,}")
    else:
        # Runs before the memory is freed. Not at exit: the driver unlocks what an ending process holds.
        weakref.finalize(array, _unlock, driver, index, address).atexit = False
    return array


def _unlock(driver: ctypes.CDLL, index: int, address: ctypes.c_void_p) -> None:
    with _context(driver, index) as current:
        if current:
            driver.cuMemHostUnregister(address)


@contextmanager
def _context(driver: ctypes.CDLL, index: int) -> Iterator[bool]:
    """Make GPU `index`'s primary context, which all libraries share, the current one; yield whether that worked."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if (
        driver.cuInit(0) != 0
        or driver.cuDeviceGet(ctypes.byref(device), index) != 0
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0
    ):
        yield False
        return
    try:
        if driver.cuCtxPushCurrent_v2(context) != 0:
            yield False
            return
        yield True
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
