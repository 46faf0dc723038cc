"""The trained model's files, for tests that open it without a registry, or after changing one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_INT8
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.openvino import OpenVinoEngine
from classifier.hardware import cpu_of_onednn
from classifier.model import Model
from classifier.types import ModelConfig, from_json
from registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier.engines import Engine, Tuning
    from tests.classifier.ways import OpenWay


@dataclass
class Files:
    """An artifact whose files stand in memory, where a test may change them."""

    files: dict[str, bytes]
    name: str = "digits"
    digest: str = field(default="sha256:" + "0" * 64)

    def read(self, file: str) -> bytes:
        """Return the contents of `file`; no digest is checked."""
        return self.files[file]


@pytest.fixture(scope="session")
def digits_files(digits_home: Path) -> dict[str, bytes]:
    """Return the files of `digits:1`. Don't change them: `digits` is for that."""
    artifact = LocalRegistry(digits_home / "registry").resolve("digits:1")
    return {file: artifact.read(file) for file in artifact.files}


@pytest.fixture(scope="session")
def embedder_files(embedder_home: Path) -> dict[str, bytes]:
    """Return the files of `embedder:1`, the digits with embeddings. Don't change them."""
    artifact = LocalRegistry(embedder_home / "registry").resolve("embedder:1")
    return {file: artifact.read(file) for file in artifact.files}


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
    """Return a function that opens an engine; it skips the test where this machine has not what that takes."""

    def open_way(
        way: str, *, threads: int | None = None, batch_size: int | None = None, tuning: Tuning = "latency"
    ) -> Engine:
        return open_graph(digits_files, way, threads=threads, batch_size=batch_size, tuning=tuning)

    return open_way


def open_graph(files: Mapping[str, bytes], way: str, **options: Any) -> Engine:
    """Return the engine of a way for these files; it skips the test where this machine or the model has it not."""
    precision, engine = way.split()
    if precision == "bf16" and "bf16" not in cpu_of_onednn().features:
        pytest.skip("the CPU has no bf16 instructions")
    if precision == "bf16" and "bf16" not in {each.precision for each in from_json(files[CONFIG], ModelConfig).allowed}:
        pytest.skip("the model does not allow bf16: its scores were found to depend on the batch")
    graph = files[MODEL_INT8 if precision == "int8" else MODEL]
    if engine == "onnxruntime":
        return OnnxRuntimeEngine(graph, precision=precision, **options)  # type: ignore[arg-type]
    pytest.importorskip("openvino")
    return OpenVinoEngine(graph, precision=precision, **options)  # type: ignore[arg-type]
