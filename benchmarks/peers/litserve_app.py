"""LitServe with ONNX Runtime: `python litserve_app.py --port 8000 [--max-batch-size 16]`."""

# No `from __future__ import annotations`: LitServe looks at the type of a request, and would see text.
import argparse
from typing import Any

import litserve
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray
from onnx_classifier import OnnxClassifier
from PIL import Image


class ClassifierAPI(litserve.LitAPI):  # type: ignore[misc]
    """Classifies one image at a time."""

    def setup(self, device: str) -> None:
        """Open the model in the worker."""
        self.classifier = OnnxClassifier()

    def decode_request(self, request: UploadFile) -> NDArray[np.uint8]:
        """Return the pixels of the image."""
        return self.classifier.preprocess(Image.open(request.file))

    def predict(self, pixels: NDArray[np.uint8]) -> Any:
        """Return the best labels."""
        [predictions] = self.classifier.predict(pixels[None])
        return predictions

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the answer."""
        return {"predictions": output}


class BatchedClassifierAPI(ClassifierAPI):
    """Classifies images that arrive together in one run of the model."""

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the images as one array."""
        return np.stack(inputs)

    def predict(self, batch: NDArray[np.uint8]) -> Any:
        """Return the best labels for each image."""
        return self.classifier.predict(batch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, default=1)
    options = parser.parse_args()
    if options.max_batch_size == 1:
        api = ClassifierAPI()
    else:
        api = BatchedClassifierAPI(max_batch_size=options.max_batch_size, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False)
