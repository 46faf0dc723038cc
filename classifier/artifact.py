"""What an artifact is made of: the names of its files, and the face through which they are read."""

from __future__ import annotations

from typing import Protocol

MODEL = "model.onnx"
MODEL_INT8 = "model.int8.onnx"
MODEL_FP16 = "model.fp16.onnx"
CONFIG = "config.json"
EVALUATION = "evaluation.json"
GOLDEN = "golden.npz"
CARD = "README.md"

FILES = (MODEL, CONFIG, EVALUATION, GOLDEN, CARD)
"""What every artifact has, in the order in which a manifest lists it; the graphs of other precisions come after."""


class ArtifactFiles(Protocol):
    """Read access to one artifact. `registry.Artifact` is the implementation."""

    @property
    def name(self) -> str:
        """The model's name, `digits`."""

    @property
    def digest(self) -> str:
        """The manifest's digest, `sha256:` and 64 hexadecimal digits: the artifact's identity."""

    def read(self, file: str) -> bytes:
        """Return the contents of `file`, after its digest was checked.

        Raises:
            DamagedArtifact: the file is missing, or not what its digest says.
        """
