"""What this process may use: CPUs and their instruction set, memory, open files.

For GPUs see `classifier.engines.nvidia`.
"""

from __future__ import annotations

import math
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from classifier.types import CpuFeature
_Value = TypeVar("_Value", bound=float)

# Flag in /proc/cpuinfo → the name recorded with results, the highest set first. Inference libraries choose kernels by
# these sets, so two CPUs with one name run the same kernels.
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

# "vnni": sums 8-bit products in 32 bits, so never overflows. "bf16": multiplies bf16. The last flags are ARM's.
_FEATURE_FLAGS: dict[CpuFeature, frozenset[str]] = {
    "vnni": frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
}

_AMX = frozenset({"amx_tile", "amx_int8", "amx_bf16"})
_AVX512_VNNI = _AMX | {"avx512_bf16"}
_AVX512 = _AVX512_VNNI | {"avx512_vnni", "avx_vnni"}
_AVX2_VNNI = _AVX512_VNNI | {"avx512_vnni", "avx512f"}
_AVX2 = _AVX2_VNNI | {"avx_vnni"}
# Value of `ONEDNN_MAX_CPU_ISA` → the flags that it hides. Other values hide none of the flags used here.
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

_NO_LIMIT_V1 = 2**62
"""Control groups v1 give the largest number of pages, in bytes, for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The features of a CPU that affect the bits or the speed of inference.

    Attributes:
        instruction_set: the highest one that inference uses, such as `avx512_vnni` or `neon`.
        features: the features that a precision may need.
    """

    instruction_set: str
    features: frozenset[CpuFeature]


def cpu(root: Path = Path("/")) -> Cpu:
    """Return this machine's CPU.

    If `/proc/cpuinfo` is missing (macOS, Windows) or lists no known set, the set is `neon` on ARM, else the machine's
    name, such as `x86_64`; without `/proc/cpuinfo`, no features are known.
    """
    flags = _cpu_flags(root)
    return Cpu(instruction_set=_highest_set(flags), features=_features(flags))


def cpu_of_onednn(root: Path = Path("/")) -> Cpu:
    """Return this machine's CPU as oneDNN and OpenVINO use it, without what `ONEDNN_MAX_CPU_ISA` hides.

    A better CPU limited to AVX2 is recorded as `avx2_on_avx512_bf16`, not `avx2`: some of OpenVINO's kernels ignore the
    limit, so scores may differ from those of a CPU with AVX2 only.
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
    # Named `flags` on x86, `Features` on ARM. The first processor stands for all.
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
    """Return how many CPUs this process may use, at least 1.

    The lower of its CPU affinity and its control group's quota, rounded up: in a container with 1.5 of 64 CPUs this is
    2, since 64 threads would be throttled.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.ceil, _cgroup_values(root, "cpu", _quota_v1, _quota_v2))]))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return how many bytes of memory this process's control groups allow it; None if they set no limit."""
    return min(_cgroup_values(root, "memory", _memory_v1, _memory_v2), default=None)


def allow_open_files(number: int) -> None:
    """Let this process open at least `number` files, or as many as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _cgroup_values(
    root: Path, controller: str, read_v1: Callable[[Path], _Value | None], read_v2: Callable[[Path], _Value | None]
) -> list[_Value]:
    """Return a controller's limits of this process's control groups (v1 or v2) and of all groups above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    values = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", read_v2
        elif controller in controllers.split(","):
            mount, read = root / "sys/fs/cgroup" / controller, read_v1
        else:
            continue
        # In a container this may be the host's path, which does not exist here: then the mount's root is the group.
        folder = mount / group.lstrip("/")
        for candidate in (folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))):
            value = read(candidate)
            if value is not None:
                values.append(value)
    return values


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


def _memory_v2(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit)
    except (OSError, ValueError):
        return None


def _memory_v1(group: Path) -> int | None:
    try:
        limit = int((group / "memory.limit_in_bytes").read_text())
        return limit if limit < _NO_LIMIT_V1 else None
    except (OSError, ValueError):
        return None
