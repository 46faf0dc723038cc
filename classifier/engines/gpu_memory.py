"""Memory of a GPU, and memory that it reads: what the driver says of both, without a library of CUDA."""

from __future__ import annotations

import ctypes
import logging
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier.hardware import load_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_FOR_ALL_CONTEXTS = 1  # CU_MEMHOSTREGISTER_PORTABLE, cuda.h


def page_lock(array: NDArray[np.uint8], *, index: int) -> NDArray[np.uint8]:
    """Return `array`, with its memory locked for GPU `index` until the array goes.

    A GPU reads such memory directly, where from other memory the driver copies first. Where the driver refuses, as
    under a limit on locked memory, the array serves as it is, and only the speed differs.
    """
    driver = load_driver()
    if driver is None:
        return array
    address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
    with _context(driver, index) as current:
        failed = not current or driver.cuMemHostRegister_v2(address, size, _FOR_ALL_CONTEXTS) != 0
    if failed:
        log.debug("The driver does not lock %s bytes of memory", f"{array.nbytes:,}")
    else:
        # Called while the memory is still there. When the process ends, the driver sees to it.
        weakref.finalize(array, _unlock, driver, index, address).atexit = False
    return array


def free_memory(index: int) -> int | None:
    """Return how many bytes are free on GPU `index`; None where the driver does not say."""
    driver, free, total = load_driver(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver is None:
        return None
    with _context(driver, index) as current:
        if not current or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
            return None
    return free.value


def _unlock(driver: ctypes.CDLL, index: int, address: ctypes.c_void_p) -> None:
    with _context(driver, index) as current:
        if current:
            driver.cuMemHostUnregister(address)


@contextmanager
def _context(driver: ctypes.CDLL, index: int) -> Iterator[bool]:
    """Make the context that all libraries share on GPU `index` the current one; give whether that worked."""
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
