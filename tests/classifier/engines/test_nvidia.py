"""NVIDIA's driver, played by a library that the tests compile: GPUs, free memory, page-locked memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.engines.nvidia import free_memory, page_lock
from tests.conftest import ROOT

if TYPE_CHECKING:
    from numpy.typing import NDArray


GPU_LIST = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuInit(unsigned flags) { return GPUS ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Small" : "Large", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device ? 8 : 10) : attribute == 76 ? (device ? 9 : 0) : -1; return 0;
}
"""


LARGE_AND_SMALL = (
    "NvidiaDriver(cuda_version=(13, 2), gpus=(Gpu(name='Large', compute_capability='sm_100'), "
    "Gpu(name='Small', compute_capability='sm_89')))"
)


@pytest.mark.parametrize(
    ("gpus", "seen"),
    [(2, LARGE_AND_SMALL), (0, "NvidiaDriver(cuda_version=(13, 2), gpus=())"), (None, "None")],
    ids=["two GPUs", "no GPU visible", "no driver"],
)
def test_nvidia_driver(tmp_path: Path, gpus: int | None, seen: str) -> None:
    """The driver's version and GPUs are read through its library."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    if gpus is None and Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    if gpus is not None:
        (tmp_path / "driver.c").write_text(GPU_LIST)
        library = tmp_path / "libcuda.so.1"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-DGPUS={gpus}", "-o", library, tmp_path / "driver.c"], check=True
        )
    done = subprocess.run(
        [sys.executable, "-c", "from classifier.engines.nvidia import *; print(nvidia_driver())"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        check=True,
    )
    assert done.stdout.strip() == seen


DRIVER = r"""
#include <stdio.h>
static int contexts = 0;
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    printf("retain %d\n", device); *context = &contexts; return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { printf("release %d\n", device); fflush(stdout); return 0; }
int cuCtxPushCurrent_v2(void *context) { printf("push %d\n", context == &contexts); return 0; }
int cuCtxPopCurrent_v2(void **context) { printf("pop\n"); return 0; }
int cuMemHostRegister_v2(void *address, size_t size, unsigned flags) {
    printf("lock %d of %zu %u\n", ((char *)address)[7], size, flags); return REFUSE;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 12345; *total = 99999; return REFUSE; }
int cuMemHostUnregister(void *address) { printf("unlock %d\n", ((char *)address)[7]); return 0; }
"""


LOCK = """
import numpy as np
from classifier.engines.nvidia import free_memory, page_lock
array = page_lock(np.arange(100, dtype=np.uint8), index=2)
print("in use", int(array.sum()), flush=True)
print("free", free_memory(2), flush=True)
part = array[3:]
del array
print("still in use", flush=True)
del part
"""


@pytest.mark.parametrize("refuse", [0, 1])
def test_page_lock(tmp_path: Path, refuse: int) -> None:
    """Memory is locked for its GPU and unlocked before it is freed; if the driver refuses, it is used as it is."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    (tmp_path / "driver.c").write_text(f"#include <stddef.h>\n#define REFUSE {refuse}\n{DRIVER}")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LOCK],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    enter, leave = ["retain 42", "push 1"], ["pop", "release 42"]
    asked = [*enter, *leave, f"free {None if refuse else 12345}"]
    locked = [*enter, "lock 7 of 100 1", *leave, "in use 4950", *asked, "still in use"]
    unlocked = [] if refuse else [*enter, "unlock 7", *leave]
    assert done.stdout.splitlines() == locked + unlocked


def test_without_a_driver_memory_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.engines.nvidia._load_driver", lambda: None)
    assert free_memory(0) is None
    array: NDArray[np.uint8] = np.zeros(3, np.uint8)
    assert page_lock(array, index=0) is array
