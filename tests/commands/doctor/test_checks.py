"""`tandem doctor`: every line that is not ok has a remedy, and the exit code is 1 exactly where one fails."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from classifier import hardware
from classifier.artifact import CONFIG
from classifier.engines import nvidia, runtime, selection
from classifier.errors import DamagedArtifact, EngineUnavailable, TandemError
from classifier.extras import install_extra
from commands.doctor import checks
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path

cpu_wheel_only = pytest.mark.skipif(
    runtime.GPU_WHEEL in runtime.installed_wheels(), reason="states what the doctor says of the CPU build"
)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@cpu_wheel_only
def test_healthy(tandem: Any, tandem_home: Path) -> None:
    """With a model in the registry and an engine that runs, nothing warns and the exit code is 0."""
    done = tandem("doctor")
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    for subject in (
        "python",
        "tandem",
        "numpy",
        "cpu",
        "nvidia driver",
        "onnxruntime on cpu",
        "registry",
        "auto for digits",
    ):
        assert f"ok    {subject}" in done.stdout


@cpu_wheel_only
def test_json(tandem: Any, tandem_home: Path) -> None:
    findings = json.loads(tandem("doctor", "--json", env={"TANDEM_THREADS": "3"}).stdout)
    by_subject = {finding["subject"]: finding for finding in findings}
    assert "models: 1, writable" in by_subject["registry"]["fact"]
    assert "TANDEM_THREADS=3" in by_subject["environment"]["fact"]
    assert all((finding["remedy"] is None) == (finding["status"] == "ok") for finding in findings)


@cpu_wheel_only
def test_fresh_machine(tandem: Any, tmp_path: Path) -> None:
    """Before the first model there is a warning that says how to make one; no folder is made by looking."""
    done = tandem("doctor", env={"TANDEM_HOME": str(tmp_path / "new")})
    lines = done.stdout.splitlines()
    (warning,) = [number for number, line in enumerate(lines) if line.startswith("warn")]
    assert "models: 0" in lines[warning]
    assert "fix: 'tandem train digits" in lines[warning + 1]
    assert list(tmp_path.iterdir()) == []


def test_what_auto_means(monkeypatch: pytest.MonkeyPatch, digits_home: Path) -> None:
    """For each name, the version that is meant by it, how it would run, and why not faster."""
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    monkeypatch.setattr(selection, "cpu", lambda: hardware.Cpu(instruction_set="avx512_vnni", features=frozenset()))
    registry = LocalRegistry(digits_home / "registry")
    [finding] = checks.check_models(registry)
    assert (finding.status, finding.subject) == ("ok", "auto for digits")
    chosen, *others = finding.fact.split("; ")
    assert chosen == "digits:1 runs in int8 with onnxruntime on cpu"
    if any(way.engine == "openvino" for way in registry.resolve("digits").config.allowed):  # as its export had that
        assert others[0].startswith("int8 with openvino on cpu and ")
        assert finding.fact.count("need OpenVINO, which is not installed (pip install") == 1


def test_a_model_that_can_t_be_run(monkeypatch: pytest.MonkeyPatch, tandem_home: Path) -> None:
    """A model whose config is damaged fails, with a remedy; the others are still looked at."""
    registry = LocalRegistry(tandem_home / "registry")
    digits = registry.resolve("digits")
    registry.add("whole", {file: digits.read(file) for file in digits.files})
    digest = digits.files[CONFIG].digest.removeprefix("sha256:")
    whole = (registry.root / "blobs" / "sha256" / digest).read_bytes()
    (registry.root / "blobs" / "sha256" / digest).write_bytes(whole[:-1])
    findings = list(checks.check_models(registry))
    assert [finding.status for finding in findings] == ["fail", "fail"]
    assert all(finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("instruction_set", "features", "says"),
    [
        ("amx", {"vnni", "bf16"}, "amx (VNNI yes, bf16 yes, AMX yes), "),
        ("avx512_bf16", {"vnni", "bf16"}, "avx512_bf16 (VNNI yes, bf16 yes, AMX no), "),
        ("avx2", set(), "avx2 (VNNI no, bf16 no, AMX no), "),
    ],
)
def test_cpu(monkeypatch: pytest.MonkeyPatch, instruction_set: str, features: set[Any], says: str) -> None:
    """What makes bf16 and int8 fast, or possible, is named."""
    processor = hardware.Cpu(instruction_set=instruction_set, features=frozenset(features))
    monkeypatch.setattr(checks, "cpu", lambda: processor)
    monkeypatch.setattr(checks, "cpu_of_onednn", lambda: processor)
    finding = checks.check_cpu()
    assert finding.status == "ok"
    assert finding.fact.startswith(says)


def test_a_cpu_that_is_held_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten ONEDNN_MAX_CPU_ISA slows OpenVINO down: it is found."""
    held = hardware.Cpu(instruction_set="avx2_on_amx", features=frozenset())
    monkeypatch.setattr(checks, "cpu_of_onednn", lambda: held)
    finding = checks.check_cpu()
    assert (finding.status, finding.remedy) == ("warn", "unset ONEDNN_MAX_CPU_ISA, unless this is a test")
    assert "holds OpenVINO to avx2_on_amx" in finding.fact


def test_openvino_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, and without its libraries, OpenVINO fails; not installed, it is not looked for."""

    def probe() -> None:
        raise EngineUnavailable(
            "engine 'openvino' can't be loaded (libtbb.so.12); pip install -e '.[openvino]' in the clone of Tandem"
        )

    monkeypatch.setattr(checks.compiling, "probe", probe)
    monkeypatch.setattr(checks, "installed_version", lambda package: "2026.4.1")
    [finding] = checks.check_openvino()
    assert (finding.status, finding.remedy) == ("fail", "pip install -e '.[openvino]' in the clone of Tandem")
    monkeypatch.setattr(checks, "installed_version", lambda package: None)
    assert list(checks.check_openvino()) == []


def test_damaged_index(tandem: Any, tandem_home: Path) -> None:
    """A damaged index fails, with a remedy and exit code 1; the other checks are still made."""
    (tandem_home / "registry" / "index.json").write_text("{")
    done = tandem("doctor", "--json", check=False)
    findings = json.loads(done.stdout)
    (failed,) = [finding for finding in findings if finding["status"] == "fail"]
    assert done.returncode == 1
    assert (failed["subject"], "is damaged" in failed["fact"]) == ("registry", True)
    assert failed["remedy"].startswith("restore it from a copy")
    assert findings[-1]["subject"] == "environment"
    assert done.stderr == ""


def test_both_builds_installed(tandem: Any, tandem_home: Path, tmp_path: Path) -> None:
    """Both onnxruntime wheels side by side fail: pip itself is content with them, and CUDA is gone."""
    for wheel in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{wheel}-1.31.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel.replace('_', '-')}\nVersion: 1.31.1\n")
    done = tandem("doctor", "--json", check=False, env={"PYTHONPATH": str(tmp_path)})
    failed = {finding["subject"]: finding for finding in json.loads(done.stdout) if finding["status"] == "fail"}
    assert done.returncode == 1
    assert "are both installed and overwrite each other's files" in failed["onnxruntime"]["fact"]
    assert failed["onnxruntime"]["remedy"].startswith("pip uninstall onnxruntime onnxruntime-gpu, then")


@pytest.mark.parametrize(
    ("wheels", "driver", "status", "fact"),
    [
        (["onnxruntime"], None, "ok", "none, and onnxruntime for the CPU needs none"),
        (["onnxruntime-gpu"], None, "fail", "none, and onnxruntime-gpu is installed"),
        (["onnxruntime"], "sm_90", "warn", "not used, because onnxruntime-gpu is not installed"),
        (["onnxruntime-gpu"], "sm_90", "ok", "runs CUDA up to 13.1; NVIDIA H200 (sm_90)"),
    ],
)
def test_driver(monkeypatch: pytest.MonkeyPatch, wheels: list[str], driver: str | None, status: str, fact: str) -> None:
    """The driver is judged by what is installed: a GPU that nothing uses warns, a build for no GPU fails."""
    gpus = (nvidia.Gpu(name="NVIDIA H200", compute_capability=str(driver)),)
    seen = nvidia.NvidiaDriver(cuda_version=(13, 1), gpus=gpus) if driver else None
    monkeypatch.setattr(checks, "nvidia_driver", lambda: seen)
    monkeypatch.setattr(checks, "installed_wheels", lambda: wheels)
    finding = checks.check_driver()
    assert finding.status == status
    assert fact in finding.fact


@cpu_wheel_only
def test_a_device_that_does_not_load() -> None:
    """A provider that is listed and does not load is a failure: it is really asked to run a graph."""
    finding = checks.check_device("cuda:0")
    assert (finding.status, finding.remedy) == ("fail", f"pip uninstall onnxruntime, then {install_extra('gpu')}")
    assert checks.check_device("cpu").status == "ok"


@cpu_wheel_only
def test_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**9))
    finding = checks.check_disk(tmp_path / "not" / "there" / "yet")
    assert (finding.status, finding.fact[:11]) == ("warn", "1.0 GB free")


def test_read_only_registry(monkeypatch: pytest.MonkeyPatch, digits_home: Path) -> None:
    """A registry that is mounted read-only is fine: containers have it so."""
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    finding = checks.check_registry(LocalRegistry(digits_home / "registry"))
    assert finding.status == "ok"
    assert "read-only" in finding.fact


def test_a_finding_that_is_not_ok_has_a_remedy() -> None:
    with pytest.raises(ValueError, match="needs a remedy"):
        checks.Finding(subject="disk", status="warn", fact="full")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (EngineUnavailable("device 'cuda:0' is not available: no driver; install one"), "install one"),
        (DamagedArtifact("/registry/index.json is damaged (at: 3): restore it from a copy"), "restore it from a copy"),
    ],
)
def test_the_remedy_of_an_error(error: TandemError, remedy: str) -> None:
    assert checks._failed("x", error).remedy == remedy
