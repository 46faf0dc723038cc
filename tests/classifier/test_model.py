"""A model opened for use: its answers, and its errors on damaged files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from classifier.artifact import CONFIG, GOLDEN, MODEL, MODEL_INT8
from classifier.engines import selection
from classifier.errors import DamagedArtifact, ImageError, NotAnImage, UnreadableImage
from classifier.model import Model
from classifier.types import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.classifier.conftest import Files


@pytest.fixture(scope="session")
def test_images(test_folder: Path) -> dict[Path, bytes]:
    """Return some images of every class, none of them used in training."""
    return {path: path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[::7]}


def test_most_answers_are_right(digits_model: Model, test_images: dict[Path, bytes]) -> None:
    """The trained model recognises at least 90 % of unseen handwritten digits."""
    answers = digits_model.classify(list(test_images.values()), k=1)
    right = sum(
        not isinstance(answer, ImageError) and answer[0].label == path.parent.name
        for path, answer in zip(test_images, answers, strict=True)
    )
    assert right / len(test_images) >= 0.9


def test_one_bad_image_spoils_no_other(digits_model: Model, test_images: dict[Path, bytes]) -> None:
    """Answers are in the order of the images; the answer to a bad image is its error."""
    first, second = list(test_images.values())[:2]
    answers = digits_model.classify([b"", first, b"text", second], k=3)
    assert isinstance(answers[0], UnreadableImage)
    assert isinstance(answers[2], NotAnImage)
    assert [answers[1], answers[3]] == digits_model.classify([first, second], k=3)


def test_nothing_to_classify(digits_model: Model) -> None:
    assert digits_model.classify([]) == []
    assert [type(answer) for answer in digits_model.classify([b"text"])] == [NotAnImage]


@given(row=arrays(np.float32, 10, elements=st.floats(0, 1, width=32)), k=st.integers(1, 15))
def test_top_k(digits_model: Model, row: NDArray[np.float32], k: int) -> None:
    """Top-k is the start of the full order: highest score first; on a tie, the lower index first."""
    best = digits_model.top_k(row, k)
    order = sorted(range(10), key=lambda index: (-row[index], index))
    assert [prediction.index for prediction in best] == order[:k]
    assert [prediction.label for prediction in best] == [digits_model.config.labels[index] for index in order[:k]]


def test_scores_are_float32_held_exactly(digits_model: Model) -> None:
    """A score converted back to float32 has the engine's very bits."""
    row = np.linspace(0, 1, 10, dtype=np.float32) / 3
    for prediction in digits_model.top_k(row, 10):
        assert np.float32(prediction.score).tobytes() == row[prediction.index].tobytes()


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_of_none_is_the_callers_error(digits_model: Model, k: int) -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        digits_model.top_k(np.zeros(10, np.float32), k)


def test_identity(digits_model: Model) -> None:
    assert digits_model.identity == f"digits@{digits_model.digest}"


@pytest.mark.parametrize(("engine", "made_by"), [("onnxruntime", "OnnxRuntimeEngine"), ("openvino", "OpenVinoEngine")])
def test_options_reach_the_engine(digits: Files, monkeypatch: pytest.MonkeyPatch, engine: str, made_by: str) -> None:
    """The options of `open` reach the engine, with the precision's graph and its file name."""
    pytest.importorskip(engine)
    asked: dict[str, object] = {}
    make = getattr(selection, made_by)

    def open_engine(graph: bytes | Callable[[], bytes], **options: object) -> object:
        asked.update(options, graph=graph() if callable(graph) else graph)
        return make(graph, **options)

    monkeypatch.setattr(selection, made_by, open_engine)
    model = Model.open(
        digits, engine=engine, device="cpu", precision="int8", threads=1, batch_size=2, tuning="throughput"
    )
    assert model.engine.info.name == engine
    expected = {"precision": "int8", "threads": 1, "batch_size": 2, "tuning": "throughput", "file": MODEL_INT8}
    of_its_own = {"device": "cpu", "alone": False} if engine == "onnxruntime" else {"digest": digits.digest}
    assert asked == expected | {"graph": digits.files[MODEL_INT8]} | of_its_own


def test_a_newer_schema_is_refused(digits: Files) -> None:
    """A config of a later release is refused; the error names its schema and says to update."""
    newer = SCHEMA_VERSION + 1
    digits.files[CONFIG] = digits.files[CONFIG].replace(
        f'"schema_version": {SCHEMA_VERSION}'.encode(), f'"schema_version": {newer}'.encode()
    )
    with pytest.raises(
        DamagedArtifact, match=rf"config.json of digits@sha256:0+ can't be read .*version {newer}.*update"
    ):
        Model.open(digits)


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b"null", b"{}", b'{"name": "digits"}', b"\xff\xfe"], ids=repr)
def test_malformed_config(digits: Files, config: bytes) -> None:
    digits.files[CONFIG] = config
    with pytest.raises(DamagedArtifact, match=r"config.json of digits@sha256:0+ can't be read \(.+\); export it again"):
        Model.open(digits)


@pytest.mark.parametrize("file", [MODEL, GOLDEN])
def test_damaged_file(digits: Files, file: str) -> None:
    """The error for a damaged file names it."""
    digits.files[file] = digits.files[file][: len(digits.files[file]) // 2]
    with pytest.raises(DamagedArtifact, match=file):
        Model.open(digits, engine="onnxruntime", precision="fp32")


def test_scores_that_are_no_numbers_are_an_error(
    digits_model: Model, test_images: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN, as fp16 gives on overflow, is an error of that image, and has no place in a ranking."""
    real = Model.scores

    def overflow(model: Model, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = real(model, images_nhwc)
        scores[0] = np.nan
        return scores

    monkeypatch.setattr(Model, "scores", overflow)
    bad, good = digits_model.classify(list(test_images.values())[:2])
    assert isinstance(bad, ImageError)
    assert bad.reason == "not_finite"
    assert not isinstance(good, ImageError)
