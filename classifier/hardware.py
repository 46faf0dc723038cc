"""What this machine has: the CPUs that this process may use, their instruction set, the NVIDIA driver and its GPUs."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classifier.types import CpuFeature

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

# What adds up products of 8 bits in 32 bits, and so never overflows; what multiplies bf16. The last are ARM's.
_FEATURE_FLAGS: dict[CpuFeature, frozenset[str]] = {
    "vnni": frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
}

_AMX = frozenset({"amx_tile", "amx_int8", "amx_bf16"})
_AVX512_VNNI = _AMX | {"avx512_bf16"}
_AVX512 = _AVX512_VNNI | {"avx512_vnni", "avx_vnni"}
_AVX2_VNNI = _AVX512_VNNI | {"avx512_vnni", "avx512f"}
_AVX2 = _AVX2_VNNI | {"avx_vnni"}
# What `ONEDNN_MAX_CPU_ISA` may be → the flags that count as absent then. Other values hide nothing that counts here.
_HIDDEN_BY_ONEDNN = {
    "sse41": _AVX2 | {"avx2", "avx"},
    "avx": _AVX2 | {"avx2"},
    "avx2": _AVX2,
    "avx2_vnni": _AVX2_VNNI,
    "avx2_vnni_2": _AVX2_VNNI,
    "avx512_core": _AVX512,
    "avx512_core_vnni": _AVX512_VNNI,
    "avx512_core_bf16": _AMX,
    "avx512_core_fp16": _AMX,
    "avx10_1_512": _AMX,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The CPU, as far as the bits and the speed of inference depend on it.

    Attributes:
        instruction_set: the highest that inference uses, `avx512_vnni` or `neon`.
        features: what a precision may need.
    """

    instruction_set: str
    features: frozenset[CpuFeature]


def cpu(root: Path = Path("/")) -> Cpu:
    """Return this machine's CPU.

    Where there is no `/proc/cpuinfo` (macOS, Windows), or none of the known sets in it, the set is `neon` on ARM, else
    the machine's name, `x86_64`; and no feature is known.
    """
    flags = _cpu_flags(root)
    return Cpu(instruction_set=_highest_set(flags), features=_features(flags))


def cpu_of_onednn(root: Path = Path("/")) -> Cpu:
    """Return this machine's CPU as oneDNN, and with it OpenVINO, uses it: `ONEDNN_MAX_CPU_ISA` hides instructions.

    Held to `avx2` on a better CPU it is `avx2_on_avx512_bf16`: not all of OpenVINO's kernels obey, so its scores need
    not be those of a CPU that ends at AVX2.
    """
    flags = _cpu_flags(root)
    real = _highest_set(flags)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).lower()
    if (hidden := _HIDDEN_BY_ONEDNN.get(limit)) is None or not hidden & flags:
        return Cpu(instruction_set=real, features=_features(flags))
    flags -= hidden
    return Cpu(instruction_set=f"{_highest_set(flags)}_on_{real}", features=_features(flags))


def _cpu_flags(root: Path) -> frozenset[str]:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # x86 has `flags`, ARM `Features`. The first processor stands for all.
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def _highest_set(flags: frozenset[str]) -> str:
    machine = platform.machine().lower()
    return next(
        (name for flag, name in (X86_SETS | ARM_SETS).items() if flag in flags),
        "neon" if machine in {"arm64", "aarch64"} else machine,
    )


def _features(flags: frozenset[str]) -> frozenset[CpuFeature]:
    return frozenset(feature for feature, signs in _FEATURE_FLAGS.items() if signs & flags)


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

    @property
    def kind(self) -> str:
        """All on which the bits of a score depend: libraries choose kernels by the number of processors, too."""
        return f"{self.compute_capability} {self.name}"


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
    cuda = load_driver()
    if cuda is None:
        return None
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return NvidiaDriver(cuda_version=(version.value // 1000, version.value % 1000 // 10), gpus=_gpus(cuda))


def load_driver() -> ctypes.CDLL | None:
    """Return the NVIDIA driver's library, None where none is installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return None


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
