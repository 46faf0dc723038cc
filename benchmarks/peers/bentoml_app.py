"""Stock BentoML with ONNX Runtime: `bentoml serve bentoml_app:Classifier`, or `:BatchedClassifier`."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from onnx_classifier import OnnxClassifier
from PIL.Image import Image  # noqa: TC002  # BentoML reads the types of an API's parameters


@bentoml.service(workers=1)
class Classifier:
    """Classifies one image at a time."""

    def __init__(self) -> None:
        self.classifier = OnnxClassifier()

    @bentoml.api
    def classify(self, image: Image, top_k: int = 5) -> dict[str, Any]:
        """Classify an image."""
        [predictions] = self.classifier.predict(self.classifier.preprocess(image)[None], top_k)
        return {"predictions": predictions}


@bentoml.service(workers=1)
class BatchedClassifier:
    """Classifies images that arrive together in one run of the model."""

    def __init__(self) -> None:
        self.classifier = OnnxClassifier()

    @bentoml.api(batchable=True, max_batch_size=16)
    def classify(self, images: list[Image]) -> list[dict[str, Any]]:
        """Classify images."""
        batch = np.stack([self.classifier.preprocess(image) for image in images])
        return [{"predictions": predictions} for predictions in self.classifier.predict(batch)]
