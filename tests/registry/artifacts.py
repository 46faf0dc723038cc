"""Small artifacts for tests of the registry: a real config, and bytes in place of a graph."""

from __future__ import annotations

from classifier.artifact import CARD, CONFIG, EVALUATION, GOLDEN, MODEL
from classifier.types import AllowedPrecision, ModelConfig, Preprocessing, to_json

CONFIG_OF_DIGITS = ModelConfig(
    name="digits",
    architecture="small_cnn",
    labels=("0", "1", "2"),
    preprocessing=Preprocessing(resize_size=8, crop_size=8),
    allowed=(AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL),),
    opset=20,
)


def make_files(graph: str | bytes = b"graph") -> dict[str, bytes]:
    """Return the files of an artifact; each `graph` makes another one."""
    graph = graph.encode() if isinstance(graph, str) else graph
    return {
        MODEL: graph,
        CONFIG: to_json(CONFIG_OF_DIGITS),
        EVALUATION: b"{}",
        GOLDEN: b"golden images",
        CARD: b"# digits\n",
    }
