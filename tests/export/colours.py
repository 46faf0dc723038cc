"""The model that the networks of these tests stand for: it tells three colours apart."""

from __future__ import annotations

from classifier.types import ModelConfig, Preprocessing
from export.measuring.precisions import WAYS

LABELS = ("cat", "dog", "owl")
PREPROCESSING = Preprocessing(resize_size=20, crop_size=16)
CONFIG = ModelConfig(
    name="colours", architecture="small_cnn", labels=LABELS, preprocessing=PREPROCESSING, allowed=WAYS[:1], opset=20
)
