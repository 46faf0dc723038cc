"""This machine's CPUs, read from files as real machines have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from classifier.hardware import Cpu, cpu, cpu_limit, cpu_of_onednn, memory_limit

ROOT = Path(__file__).resolve().parents[2]
HASWELL = "fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c bmi1 avx2 bmi2"
SKYLAKE_X = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
CASCADE_LAKE = f"{SKYLAKE_X} avx512_vnni"
SAPPHIRE_RAPIDS = f"{CASCADE_LAKE} avx_vnni avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8"
ALDER_LAKE = f"{HASWELL} avx_vnni"


ZEN_5 = f"{CASCADE_LAKE} avx_vnni avx512_bf16"


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove limits on the instruction set."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features"),
    [
        (f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {HASWELL}\nbugs\t\t:\n", "avx2", set()),
        (f"processor\t: 0\nflags\t\t: {SKYLAKE_X}\n", "avx512", set()),
        (f"processor\t: 0\nflags\t\t: {CASCADE_LAKE}\n", "avx512_vnni", {"vnni"}),
        (f"processor\t: 0\nflags\t\t: {ZEN_5}\n", "avx512_bf16", {"vnni", "bf16"}),
        (f"processor\t: 0\nflags\t\t: {SAPPHIRE_RAPIDS}\n", "amx", {"vnni", "bf16"}),
        (f"processor\t: 0\nflags\t\t: {ALDER_LAKE}\n", "avx2_vnni", {"vnni"}),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes crc32\n", "neon", set()),
        ("processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp sve i8mm bf16\n", "sve", {"vnni", "bf16"}),
    ],
)
def test_cpu(tmp_path: Path, cpuinfo: str, name: str, features: set[str]) -> None:
    """The highest instruction set and the features are read from the /proc/cpuinfo of each CPU family."""
    write(tmp_path / "proc/cpuinfo", cpuinfo)
    assert cpu(tmp_path) == cpu_of_onednn(tmp_path) == Cpu(instruction_set=name, features=frozenset(features))


def test_cpu_without_cpuinfo(tmp_path: Path) -> None:
    """Without /proc, as on macOS and Windows, the CPU has a name and no known features."""
    assert cpu(tmp_path).instruction_set
    assert cpu(tmp_path).features == frozenset()


@pytest.mark.parametrize(
    ("flags", "limit", "name", "features"),
    [
        (ZEN_5, "AVX512_CORE_VNNI", "avx512_vnni_on_avx512_bf16", {"vnni"}),
        (ZEN_5, "avx512_core", "avx512_on_avx512_bf16", set()),
        (ZEN_5, "AVX2_VNNI", "avx2_vnni_on_avx512_bf16", {"vnni"}),
        (ZEN_5, "AVX2", "avx2_on_avx512_bf16", set()),
        (ZEN_5, "AVX512_CORE_BF16", "avx512_bf16", {"vnni", "bf16"}),
        (ZEN_5, "ALL", "avx512_bf16", {"vnni", "bf16"}),
        (ZEN_5, "nonsense", "avx512_bf16", {"vnni", "bf16"}),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_BF16", "avx512_bf16_on_amx", {"vnni", "bf16"}),
        (CASCADE_LAKE, "AVX2_VNNI", "avx2_on_avx512_vnni", set()),
        (HASWELL, "AVX2", "avx2", set()),
        (HASWELL, "AVX512_CORE", "avx2", set()),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_cpu_of_onednn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    flags: str,
    limit: str,
    name: str,
    features: set[str],
) -> None:
    """A limit hides features from OpenVINO only, and is recorded if it hides anything."""
    write(tmp_path / "proc/cpuinfo", f"flags\t\t: {flags}\n")
    monkeypatch.setenv(variable, limit)
    assert cpu_of_onednn(tmp_path) == Cpu(instruction_set=name, features=frozenset(features))
    assert "_on_" not in cpu(tmp_path).instruction_set


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("9900000 100000", 64),
        ("garbage", 64),
        ("100000 0", 64),
    ],
)
def test_limit_of_cgroup_v2(tmp_path: Path, quota: str, cpus: int) -> None:
    """On a machine with 64 CPUs, a container's quota is rounded up, to at least 1."""
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", f"{quota}\n")
    assert cpu_limit(tmp_path) == cpus


@pytest.mark.usefixtures("many_cpus")
def test_limit_of_a_group_above(tmp_path: Path) -> None:
    """A quota applies to all groups below it: a pod's quota to its containers."""
    write(tmp_path / "proc/self/cgroup", "0::/kubepods.slice/pod7.slice/cri-9.scope\n")
    write(tmp_path / "sys/fs/cgroup/kubepods.slice/pod7.slice/cpu.max", "300000 100000\n")
    write(tmp_path / "sys/fs/cgroup/kubepods.slice/pod7.slice/cri-9.scope/cpu.max", "max 100000\n")
    assert cpu_limit(tmp_path) == 3


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(("quota", "cpus"), [("-1", 64), ("250000", 3)])
def test_limit_of_cgroup_v1(tmp_path: Path, quota: str, cpus: int) -> None:
    """On cgroup v1, Docker shows the host's path, of which the container sees only the root."""
    write(
        tmp_path / "proc/self/cgroup",
        "12:memory:/docker/3eb4\n5:cpu,cpuacct:/docker/3eb4\n3:cpuset:/docker/3eb4\n1:name=systemd:/docker/3eb4\n0::/\n",
    )
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_limit(tmp_path) == cpus


@pytest.mark.usefixtures("many_cpus")
def test_limit_without_cgroups(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) == 64


def test_limit_of_this_process() -> None:
    """With an affinity for one CPU, the limit is 1."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system has no CPU affinity")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpu_limit() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("limit", "memory"), [("536870912", 536870912), ("max", None), ("garbage", None)])
def test_memory_of_cgroup_v2(tmp_path: Path, limit: str, memory: int | None) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pod7.slice/cri-9.scope\n")
    write(tmp_path / "sys/fs/cgroup/pod7.slice/memory.max", f"{limit}\n")
    write(tmp_path / "sys/fs/cgroup/pod7.slice/cri-9.scope/memory.max", "max\n")
    assert memory_limit(tmp_path) == memory


@pytest.mark.parametrize(("limit", "memory"), [("536870912", 536870912), ("9223372036854771712", None)])
def test_memory_of_cgroup_v1(tmp_path: Path, limit: str, memory: int | None) -> None:
    write(tmp_path / "proc/self/cgroup", "12:memory:/docker/3eb4\n5:cpu,cpuacct:/docker/3eb4\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{limit}\n")
    assert memory_limit(tmp_path) == memory


def test_memory_without_cgroups(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
