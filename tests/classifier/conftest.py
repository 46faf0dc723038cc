"""The trained model's files, for tests that open it without a registry, or after changing one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_INT8
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.openvino import OpenVinoEngine
from classifier.engines.runtime import GPU_WHEEL, installed_wheels
from classifier.hardware import cpu_of_onednn
from classifier.model import Model
from classifier.types import ModelConfig, from_json
from registry import LocalRegistry
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier.engines import Engine, Tuning

WAYS = ("fp32 onnxruntime", "int8 onnxruntime", "fp32 openvino", "bf16 openvino", "int8 openvino")
"""The ways in which a CPU may run the digits, for tests of facts that hold in all of them."""

cpu_wheel_only = pytest.mark.skipif(GPU_WHEEL in installed_wheels(), reason="tests the CPU build of onnxruntime")


class OpenWay(Protocol):
    """Opens the digits in one of `WAYS`."""

    def __call__(
        self,
        way: str,
        *,
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
    ) -> Engine:
        """Return the engine for a way, such as `int8 openvino`."""


@dataclass
class Files:
    """An artifact whose files are in memory, where a test may change them."""

    files: dict[str, bytes]
    name: str = "digits"
    digest: str = field(default="sha256:" + "0" * 64)

    def read(self, file: str) -> bytes:
        """Return the contents of `file`; no digest is checked."""
        return self.files[file]


@pytest.fixture(scope="session")
def digits_files(digits_home: Path) -> dict[str, bytes]:
    """Return the files of `digits:1`. Don't change them: use `digits` for that."""
    artifact = LocalRegistry(digits_home / "registry").resolve("digits:1")
    return {file: artifact.read(file) for file in artifact.files}


@pytest.fixture(scope="session")
def embedder_files(embedder_home: Path) -> dict[str, bytes]:
    """Return the files of `embedder:1`, the digits with embeddings. Don't change them."""
    artifact = LocalRegistry(embedder_home / "registry").resolve("embedder:1")
    return {file: artifact.read(file) for file in artifact.files}


@pytest.fixture(scope="session")
def graph(digits_files: dict[str, bytes]) -> bytes:
    """Return the graph of `digits:1`."""
    return digits_files[MODEL]


@pytest.fixture
def digits(digits_files: dict[str, bytes]) -> Files:
    """Return the trained model as an artifact that the test may change."""
    return Files(files=dict(digits_files))


@pytest.fixture(scope="session")
def digits_model(digits_files: dict[str, bytes]) -> Model:
    """Return the trained model, opened on the CPU."""
    return Model.open(Files(files=digits_files), engine="onnxruntime", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def open_way(digits_files: dict[str, bytes]) -> OpenWay:
    """Return a function that opens an engine; it skips the test if this machine can't."""

    def open_way(
        way: str, *, threads: int | None = None, batch_size: int | None = None, tuning: Tuning = "latency"
    ) -> Engine:
        return open_graph(digits_files, way, threads=threads, batch_size=batch_size, tuning=tuning)

    return open_way


def open_graph(files: Mapping[str, bytes], way: str, **options: Any) -> Engine:
    """Return the engine for a way of running these files; skip the test if this machine or the model can't."""
    precision, engine = way.split()
    if precision == "bf16" and "bf16" not in cpu_of_onednn().features:
        pytest.skip("the CPU lacks bf16 instructions")
    if precision == "bf16" and "bf16" not in {each.precision for each in from_json(files[CONFIG], ModelConfig).allowed}:
        pytest.skip("the model does not allow bf16: its scores were found to depend on the batch")
    graph = files[MODEL_INT8 if precision == "int8" else MODEL]
    if engine == "onnxruntime":
        return OnnxRuntimeEngine(graph, precision=precision, **options)  # type: ignore[arg-type]
    pytest.importorskip("openvino")
    return OpenVinoEngine(graph, precision=precision, **options)  # type: ignore[arg-type]


def run_python(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Return the ended process that ran `code`."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
