"""Scores made up for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batch.inputs.named import Input
from batch.inputs.plan import ImageFile
from classifier.types import EngineInfo
from validation.scoring import Data, FailedImage, ScoredFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ENGINE = EngineInfo(name="onnxruntime", version="1", device="cpu", precision="fp32", instruction_set="avx2")


def scored_files(
    scores: NDArray[np.float32],
    truth: Sequence[int],
    labels: Sequence[str],
    *,
    name: str = "model",
    digest: str = "sha256:data",
) -> ScoredFiles:
    """Return scores `[N, classes]` of images that don't exist; an image whose scores are NaN has failed."""
    folder = Input(given="data", location="/data")
    files = tuple(ImageFile(input=folder, relative=f"{labels[label]}/{i}.png") for i, label in enumerate(truth))
    failed = tuple(
        FailedImage(path=file.relative, reason="unreadable", error="bad")
        for file, row in zip(files, scores, strict=True)
        if np.isnan(row[0])
    )
    return ScoredFiles(
        model=f"{name}@sha256:{name}",
        digest=f"sha256:{name}",
        engine=ENGINE,
        labels=tuple(labels),
        files=files,
        truth=np.array(truth, dtype=np.int64),
        scores=scores.astype(np.float32),
        sha256=("0",) * len(files),
        failed=failed,
        data=Data(folder="data", images=len(files), digest=digest),
    )
