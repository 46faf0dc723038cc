"""Embeddings: the last layer's input, bit-equal at any batch size, without an effect on the scores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.artifact import CONFIG, MODEL
from classifier.engines.group import EngineGroup
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import DamagedArtifact
from classifier.model import Model
from tests.classifier.conftest import WAYS, Files, open_graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from tests.classifier.conftest import OpenWay

SIZE = 128


@pytest.fixture(scope="module", params=WAYS)
def engine(request: pytest.FixtureRequest, embedder_files: Mapping[str, bytes]) -> Engine:
    """Return the digits with embeddings, opened in each of `WAYS`."""
    return open_graph(embedder_files, request.param, threads=2, tuning="throughput")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def alone(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the embedding of each image run alone."""
    return np.concatenate([engine.embed(image[np.newaxis])[1] for image in images])


@given(start=st.integers(0, 40), count=st.integers(0, 40))
def test_neither_depends_on_the_batch_and_scores_not_on_embeddings(
    engine: Engine, images: NDArray[np.uint8], alone: NDArray[np.float32], start: int, count: int
) -> None:
    """An image's embedding is bit-equal in any batch, and its scores are bit-equal to those of `run`."""
    batch = images[start : start + count]
    scores, embeddings = engine.embed(batch)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(batch), SIZE) == (len(batch), engine.embedding_size)
    assert embeddings.tobytes() == alone[start : start + count].tobytes()
    assert scores.tobytes() == engine.run(batch).tobytes()


def test_embeddings_tell_images_apart_as_those_of_fp32_do(
    engine: Engine, images: NDArray[np.uint8], alone: NDArray[np.float32], embedder_files: Mapping[str, bytes]
) -> None:
    """In every precision, an image's embedding is closest to its own in fp32, and not to another image's."""
    exact = OnnxRuntimeEngine(embedder_files[MODEL]).embed(images)[1]
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (alone, exact))
    cosines = a @ b.T
    assert np.diag(cosines).min() > 0.99
    assert (cosines.argmax(axis=1) == np.arange(len(images))).all()


def test_threads_that_ask_for_them_and_threads_that_do_not_share_an_engine(
    engine: Engine, images: NDArray[np.uint8], alone: NDArray[np.float32]
) -> None:
    """Threads that call `embed` and threads that call `run` each get their own results."""
    expected = engine.run(images)
    with ThreadPoolExecutor(4) as pool:
        embedded = [pool.submit(engine.embed, images[start : start + 10]) for start in range(0, 40, 10)]
        scored = [pool.submit(engine.run, images[start : start + 10]) for start in range(0, 40, 10)]
    assert np.concatenate([each.result()[1] for each in embedded]).tobytes() == alone.tobytes()
    assert np.concatenate([each.result() for each in scored]).tobytes() == expected.tobytes()


def test_a_group_of_engines_gives_them_in_order(embedder_files: Mapping[str, bytes], images: NDArray[np.uint8]) -> None:
    """A group's embeddings are those of one engine, in order."""
    one = OnnxRuntimeEngine(embedder_files[MODEL], threads=1)
    group = EngineGroup([OnnxRuntimeEngine(embedder_files[MODEL], threads=1, batch_size=7) for _ in range(2)])
    assert group.embedding_size == SIZE
    for count in (40, 3, 0):
        got, expected = group.embed(images[:count]), one.embed(images[:count])
        assert [each.tobytes() for each in got] == [each.tobytes() for each in expected]
        assert got[1].shape == (count, SIZE)


@pytest.mark.parametrize("way", ["fp32 onnxruntime", "fp32 openvino"])
def test_a_graph_without_embeddings_gives_none(open_way: OpenWay, images: NDArray[np.uint8], way: str) -> None:
    engine = open_way(way)
    assert engine.embedding_size is None
    with pytest.raises(ValueError, match="has no output 'embeddings'"):
        engine.embed(images)


def test_what_the_last_layer_makes_of_them_are_the_scores(
    embedder_files: Mapping[str, bytes], images: NDArray[np.uint8]
) -> None:
    """The graph's last layer, applied to the embeddings, gives the scores."""
    onnx = pytest.importorskip("onnx")
    weights = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load_from_string(embedder_files[MODEL]).graph.initializer
    }
    scores, embeddings = OnnxRuntimeEngine(embedder_files[MODEL]).embed(images)
    logits = embeddings @ weights["network.head.weight"].T + weights["network.head.bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("said", "numbers"), [(b'"embedding_size": 64,', 64), (b"", 0)])
def test_a_config_that_says_another_size_than_the_graph_is_damage(
    embedder_files: dict[str, bytes], said: bytes, numbers: int
) -> None:
    config = embedder_files[CONFIG].replace(b'"embedding_size": 128,', said)
    assert config != embedder_files[CONFIG]
    with pytest.raises(DamagedArtifact, match=rf"gives embeddings of 128 numbers, but config\.json says {numbers}: "):
        Model.open(Files(files={**embedder_files, CONFIG: config}), engine="onnxruntime", device="cpu")


def test_a_config_without_embeddings_does_not_speak_of_them(
    digits_files: Mapping[str, bytes], embedder_files: Mapping[str, bytes]
) -> None:
    """A config without embeddings does not mention them, so that digests of older models stay the same."""
    assert b"embedding" not in digits_files[CONFIG]
    assert b'"embedding_size": 128' in embedder_files[CONFIG]
