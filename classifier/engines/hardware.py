"""What this machine has: the CPUs that this process may use, their instruction set, the NVIDIA driver and its GPUs."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

# /proc/cpuinfo's flag → the name that is recorded with results, the highest first. These are the sets that inference
# libraries dispatch on, so two CPUs with one name run the same kernels.
X86_SETS = {
    "amx_tile": "amx",
    "avx512_bf16": "avx512_bf16",
    "avx512_vnni": "avx512_vnni",
    "avx512f": "avx512",
    "avx_vnni": "avx2_vnni",
    "avx2": "avx2",
    "avx": "avx",
}
ARM_SETS = {"sme": "sme", "sve": "sve", "i8mm": "neon_i8mm", "asimddp": "neon_dotprod", "asimd": "neon"}


def cpu_instruction_set(root: Path = Path("/")) -> str:
    """Return the highest instruction set of the CPU that inference uses, `avx512_vnni` or `neon`.

    Where there is no `/proc/cpuinfo` (macOS, Windows), or none of the known sets in it: `neon` on ARM, else the
    machine's name, `x86_64`.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # x86 has `flags`, ARM `Features`. The first processor stands for all.
    flags = next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )
    for flag, name in (X86_SETS | ARM_SETS).items():
        if flag in flags:
            return name
    machine = platform.machine().lower()
    return "neon" if machine in {"arm64", "aarch64"} else machine


def cpu_limit(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may keep busy, at least 1.

    The lower of its CPU affinity and its control group's quota, rounded up: a container that was given 1.5 CPUs on a
    machine with 64 runs 2 threads, not 64 that are throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [affinity, *(math.ceil(quota) for quota in _cgroup_quotas(root))]
    return max(1, min(quotas))


def _cgroup_quotas(root: Path) -> list[float]:
    """Return the CPU quotas, in CPUs, of this process's control groups and of those above them; v1 and v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, read_quota = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read_quota = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        # In a container the path may be the host's and not exist here: the root of the mount is then the group.
        folder = mount / group.lstrip("/")
        for candidate in (folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))):
            quota = read_quota(candidate)
            if quota is not None:
                quotas.append(quota)
    return quotas


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU that the NVIDIA driver shows to this process.

    Attributes:
        compute_capability: as `sm_90`.
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaDriver:
    """The NVIDIA driver of this machine.

    Attributes:
        cuda_version: the newest CUDA that it can run, (13, 0).
        gpus: in the order of their indices; `CUDA_VISIBLE_DEVICES` is respected.
    """

    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]

    @property
    def cuda(self) -> str:
        """The newest CUDA as one writes it, `13.0`."""
        return ".".join(map(str, self.cuda_version))


_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute, cuda.h


def nvidia_driver() -> NvidiaDriver | None:
    """Return the NVIDIA driver with its GPUs, or None where none is installed.

    Asks the driver's own library, as CUDA does: `nvidia-smi` is missing from many containers, and ignores
    `CUDA_VISIBLE_DEVICES`. No context is opened, no memory of the GPU taken.
    """
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return NvidiaDriver(cuda_version=(version.value // 1000, version.value % 1000 // 10), gpus=_gpus(cuda))


def _gpus(cuda: ctypes.CDLL) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    gpus = []
    for index in range(count.value):
        device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
        gpus.append(Gpu(name=name.value.decode(errors="replace"), compute_capability=f"sm_{major.value}{minor.value}"))
    return tuple(gpus)
