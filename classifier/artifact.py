"""The files of an artifact: their names, and the interface for reading them."""

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
"""The files that every artifact has, in manifest order; graphs of other precisions follow them."""

MAX_BYTES = {CONFIG: 2**24, EVALUATION: 2**26, GOLDEN: 2**28, CARD: 2**24}
"""The largest size of the files other than graphs, checked before one is read: room for 100,000 labels."""


class ArtifactFiles(Protocol):
    """Read access to one artifact, implemented by `registry.Artifact`."""

    @property
    def name(self) -> str:
        """The model's name, `digits`."""

    @property
    def digest(self) -> str:
        """The manifest's digest, `sha256:` and 64 hexadecimal digits: the artifact's identity."""

    def read(self, file: str) -> bytes:
        """Return the contents of `file`, after checking its digest.

        Raises:
            DamagedArtifact: the file is missing, or does not match its digest.
        """
