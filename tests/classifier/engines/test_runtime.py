"""The installed ONNX Runtime: one build, silent, and able to use CUDA or refused with the reason."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from classifier.engines import runtime
from classifier.engines.nvidia import Gpu, NvidiaDriver
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import EngineUnavailable
from classifier.extras import install_extra
from tests.classifier.conftest import run_python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("driver", "fact", "remedy"),
    [
        (None, "no NVIDIA driver was found", "--gpus all"),
        (NvidiaDriver(cuda_version=(12, 8), gpus=()), "supports CUDA up to 12.8", "update the driver"),
        (NvidiaDriver(cuda_version=(13, 0), gpus=()), "shows 0 GPUs", "CUDA_VISIBLE_DEVICES"),
    ],
    ids=["no driver", "old driver", "no GPU"],
)
def test_cuda_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, driver: NvidiaDriver | None, fact: str, remedy: str
) -> None:
    """With the GPU build installed, the error names the first missing part of CUDA."""
    monkeypatch.setattr(runtime, "nvidia_driver", lambda: driver)
    build = SimpleNamespace(
        __version__="1.31.1", cuda_version="13.0", get_available_providers=lambda: [runtime.CUDA, runtime.CPU]
    )
    with pytest.raises(EngineUnavailable) as caught:
        runtime.check_cuda(build, 0)  # type: ignore[arg-type]  # stands for a build that is not installed here
    said, _, advice = str(caught.value).partition("; ")
    assert fact in said
    assert remedy in advice


def test_the_newest_cuda_of_a_driver_may_be_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver for CUDA 13.2 and one for 14.0 both run a build for 13.0."""
    gpu = Gpu(name="NVIDIA H200", compute_capability="sm_90")
    build = SimpleNamespace(__version__="1.31.1", cuda_version="13.0", get_available_providers=lambda: [runtime.CUDA])
    for version in ((13, 2), (14, 0)):
        driver = NvidiaDriver(cuda_version=version, gpus=(gpu,))
        monkeypatch.setattr(runtime, "nvidia_driver", lambda driver=driver: driver)
        assert runtime.check_cuda(build, 0) == gpu  # type: ignore[arg-type]


def test_both_builds_installed(graph: bytes, tmp_path: Path) -> None:
    """With both wheels installed, nothing runs and the error names the remedy."""
    for wheel in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{wheel}-1.31.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel.replace('_', '-')}\nVersion: 1.31.1\n")
    done = run_python("from classifier.engines.runtime import load_runtime; load_runtime()", PYTHONPATH=str(tmp_path))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("classifier.errors.EngineUnavailable: ")
    assert f"pip uninstall onnxruntime onnxruntime-gpu, then {install_extra('cpu', 'gpu')}" in last


def test_no_runtime_installed(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match=r"can't be loaded \(.*\); pip install -e '\.\[cpu\]' or"):
        OnnxRuntimeEngine(graph)


@pytest.mark.parametrize("home", ["fresh", "unwritable"])
def test_no_telemetry(tmp_path: Path, home: str) -> None:
    """ONNX Runtime writes no telemetry into the user's home, and prints nothing about it."""
    (tmp_path / "fresh").mkdir()
    (tmp_path / "unwritable").touch()  # a folder would be one that root may write
    code = "import os; del os.environ['ORT_DISABLE_TELEMETRY']; from classifier.engines.sessions import *; probe('cpu')"
    done = run_python(code, HOME=str(tmp_path / home), XDG_CACHE_HOME="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "fresh").iterdir())
