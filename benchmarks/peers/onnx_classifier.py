"""What the three peers share: an ONNX model, run as most people run one, with Pillow and ONNX Runtime.

Set by the environment: `MODEL_FOLDER` holds `model.onnx` and `config.json`; `MODEL_THREADS` is the number of ONNX
Runtime's threads; `MODEL_SPINNING=0` keeps threads without work from spinning, which ONNX Runtime lets them do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OnnxClassifier:
    """A classifier of images: preprocessing, model and labels."""

    def __init__(self) -> None:
        folder = Path(os.environ["MODEL_FOLDER"])
        config = json.loads((folder / "config.json").read_text())
        preprocessing = config["preprocessing"]
        self.labels: list[str] = config["labels"]
        self.resize_size: int = preprocessing["resize_size"]
        self.crop_size: int = preprocessing["crop_size"]
        self.interpolation = Image.Resampling[preprocessing["interpolation"].upper()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["MODEL_THREADS"])
        if os.environ.get("MODEL_SPINNING") == "0":
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=onnxruntime.get_available_providers()
        )
        self.input_name: str = self.session.get_inputs()[0].name

    def preprocess(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the pixels `[crop, crop, 3]` that the model takes: resized on the shorter side, then cropped."""
        image = ImageOps.exif_transpose(image).convert("RGB")
        shorter = min(image.size)
        width, height = (int(self.resize_size * side / shorter) for side in image.size)
        image = image.resize((width, height), self.interpolation)
        left, top = (round((side - self.crop_size) / 2) for side in image.size)
        return np.asarray(image.crop((left, top, left + self.crop_size, top + self.crop_size)))

    def predict(self, images: NDArray[np.uint8], top_k: int = 5) -> list[list[dict[str, Any]]]:
        """Return the best labels with their scores for each of the images `[N, crop, crop, 3]`."""
        (scores,) = self.session.run(["probabilities"], {self.input_name: images})
        best = np.argsort(-scores, axis=1)[:, :top_k]
        return [
            [{"label": self.labels[index], "index": int(index), "score": float(row[index])} for index in indices]
            for row, indices in zip(scores, best, strict=True)
        ]
