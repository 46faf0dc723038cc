"""Sessions of ONNX Runtime: on the requested device, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classifier.engines import onnxruntime, runtime, sessions
from classifier.engines.nvidia import Gpu
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import DamagedArtifact, EngineUnavailable
from tests.classifier.conftest import cpu_wheel_only


@cpu_wheel_only
def test_a_session_for_cuda_does_not_fall_to_the_cpu(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if all checks are wrong, ONNX Runtime itself refuses, since the session can't fall back to the CPU."""
    gpu = Gpu(name="none", compute_capability="sm_90")
    monkeypatch.setattr(sessions, "check_cuda", lambda runtime, index: gpu)
    monkeypatch.setattr(onnxruntime, "check_cuda", lambda runtime, index: gpu)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineUnavailable, match=r"does not load on it \(.*fallback to CPU EP has been explicitly"),
    ):
        OnnxRuntimeEngine(graph, device="cuda")


def test_weights_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with weights in a file of the working directory is a DamagedArtifact: no digest covers them."""
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(np.ones(300, np.float32).tobytes())
    onnx = pytest.importorskip("onnx")
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[300])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [300]) for name in "xy")
    add = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "add", [x], [y], [weights])
    graph = onnx.helper.make_model(add, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    with pytest.raises(DamagedArtifact, match="External data path does not exist"):
        sessions.open_on_cpu(runtime.load_runtime(), graph.SerializeToString())
