"""ONNX Runtime as an engine: its errors on damaged graphs, unknown devices and full memory."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.engines import graphs, onnxruntime
from classifier.engines.nvidia import Gpu
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import DamagedArtifact, EngineUnavailable
from tests.classifier.conftest import cpu_wheel_only, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.types import EngineInfo


@cpu_wheel_only
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_is_refused_by_the_cpu_build(graph: bytes, device: str) -> None:
    """A request for CUDA never runs on the CPU, as ONNX Runtime itself would, with a line in its log."""
    with pytest.raises(EngineUnavailable, match=r"is a build for the CPU only; pip uninstall onnxruntime, then"):
        OnnxRuntimeEngine(graph, device=device)


def test_gpus_of_one_compute_capability_are_told_apart(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN and cuBLAS also choose kernels by the GPU's size, so these GPUs need not give equal bits."""

    def on(name: str) -> EngineInfo:
        gpu = Gpu(name=name, compute_capability="sm_90")
        monkeypatch.setattr(onnxruntime, "check_cuda", lambda runtime, index: gpu)
        return OnnxRuntimeEngine(graph, device="cuda", batch_size=8).info

    monkeypatch.setattr(onnxruntime, "_open_on_cuda", lambda *_, **__: SimpleNamespace(size=8, run=None))
    assert on("NVIDIA H200").instruction_set == "sm_90 NVIDIA H200"
    assert on("NVIDIA H200").bit_equal_to(on("NVIDIA H200"))
    assert not on("NVIDIA H200").bit_equal_to(on("NVIDIA H100 PCIe"))


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CPU", ""])
def test_unknown_device(graph: bytes, device: str) -> None:
    with pytest.raises(EngineUnavailable, match="choose auto, cpu, cuda or cuda:N"):
        OnnxRuntimeEngine(graph, device=device)


@pytest.mark.parametrize("damaged", [b"", b"hello", b"\0" * 100, b"<html></html>"])
def test_bytes_that_are_no_graph(damaged: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not ONNX give an error of one line, and ONNX Runtime prints nothing."""
    with pytest.raises(DamagedArtifact, match="export it again") as caught:
        OnnxRuntimeEngine(damaged)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_corrupt_graphs(graph: bytes, data: st.DataObject) -> None:
    """A cut or altered graph runs or is a DamagedArtifact; no other exception gets out."""
    end = data.draw(st.sampled_from([len(graph), len(graph) // 2]) | st.integers(0, len(graph)))
    corrupt = bytearray(graph[:end])
    for position in data.draw(st.lists(st.integers(0, max(end - 1, 0)), max_size=4)) if end else []:
        corrupt[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedArtifact):
        OnnxRuntimeEngine(bytes(corrupt), threads=1)


def test_graph_of_another_kind() -> None:
    """A valid graph that is not an image classifier is refused as such."""
    with pytest.raises(DamagedArtifact, match=r"one uint8 \[N, H, H, 3\] and gives float32 'probabilities'"):
        OnnxRuntimeEngine(graphs.PROBE)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the process's address space")
def test_out_of_memory(graph: bytes, tmp_path: Path) -> None:
    """A batch too large for memory is an error of one line, and the engine still runs a smaller one."""
    (tmp_path / "model.onnx").write_bytes(graph)
    done = run_python(
        f"""
import resource
from pathlib import Path
import numpy as np
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import OutOfDeviceMemory
engine = OnnxRuntimeEngine(Path({str(tmp_path / "model.onnx")!r}).read_bytes(), threads=1, batch_size=100_000)
images = np.zeros((100_000, 8, 8, 3), np.uint8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, used + 100_000_000))
try:
    engine.run(images)
except OutOfDeviceMemory as error:
    print(error)
print(engine.run(images[:1]).shape)
"""
    )
    assert done.stdout.splitlines() == [
        "a batch of 100,000 images does not fit into the free memory of cpu; free some, or choose a smaller batch size",
        "(1, 10)",
    ], done.stderr
