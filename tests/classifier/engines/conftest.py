"""The digits, allowed in every way, and simulated machines that support some of the ways."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_FP16, MODEL_INT8
from classifier.engines import selection
from classifier.errors import EngineUnavailable
from classifier.hardware import Cpu
from classifier.types import AllowedPrecision, ModelConfig, from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.types import CpuFeature

FP16_CUDA = AllowedPrecision(precision="fp16", engine="onnxruntime", device="cuda", graph=MODEL_FP16)
FP32_CUDA = AllowedPrecision(precision="fp32", engine="onnxruntime", device="cuda", graph=MODEL)
INT8 = AllowedPrecision(precision="int8", engine="openvino", device="cpu", graph=MODEL_INT8, needs=("vnni",))
BF16 = AllowedPrecision(precision="bf16", engine="openvino", device="cpu", graph=MODEL, needs=("bf16",))
ORT_INT8 = AllowedPrecision(precision="int8", engine="onnxruntime", device="cpu", graph=MODEL_INT8, needs=("vnni",))
FP32 = AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL)
ALL = (FP32, FP32_CUDA, FP16_CUDA, BF16, ORT_INT8, INT8)


@pytest.fixture
def config(digits_files: Mapping[str, bytes]) -> ModelConfig:
    """Return the config of the digits, allowed in every way, in another order than `auto`'s."""
    return replace(from_json(digits_files[CONFIG], ModelConfig), allowed=ALL)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes `selection` see another machine."""

    def make(
        *features: CpuFeature,
        instruction_set: str = "avx2",
        openvino: bool = True,
        onednn: Cpu | None = None,
        gpu: str | None = "",
    ) -> None:
        """`gpu` is None for a GPU that works, "" without the GPU wheel, else the reason why it fails."""
        processor = Cpu(instruction_set=instruction_set, features=frozenset(features))
        monkeypatch.setattr(selection, "cpu", lambda: processor)
        monkeypatch.setattr(selection, "cpu_of_onednn", lambda: onednn or processor)
        monkeypatch.setattr(selection, "find_spec", lambda name: name if openvino else None)
        monkeypatch.setattr(selection, "installed_wheels", lambda: ["onnxruntime" if gpu == "" else "onnxruntime-gpu"])

        def check_cuda(runtime: object, index: int) -> None:
            if gpu is not None:
                raise EngineUnavailable(f"device 'cuda:{index}' is not available: {gpu}; buy one")

        monkeypatch.setattr(selection, "check_cuda", check_cuda)

    return make


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty TANDEM_HOME."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    return tmp_path
