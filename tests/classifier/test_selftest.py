"""The self-test: a model fails it if any score differs, for whatever reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.errors import DamagedArtifact, SelfTestFailed
from classifier.selftest import self_test

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.golden import GoldenSet
    from classifier.model import Model
    from classifier.types import EngineInfo


def with_golden(model: Model, golden: GoldenSet) -> Model:
    return replace(model, golden=golden)


class Altered:
    """An engine whose scores are altered."""

    def __init__(self, engine: Engine, alter: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.engine, self.alter = engine, alter

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.alter(self.engine.run(images_nhwc))


def altered(model: Model, alter: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Model:
    return replace(model, engine=Altered(model.engine, alter))


def test_trained_model_passes(digits_model: Model) -> None:
    """The trained model gives torch's scores within the tolerance, and the report says how close."""
    report = self_test(digits_model)
    assert report.images == len(digits_model.golden.images)
    assert 0 <= report.max_difference <= report.tolerance == digits_model.golden.tolerances["fp32"]
    assert report.engine == digits_model.engine.info


def test_one_altered_score_fails(digits_model: Model) -> None:
    """A single score outside the tolerance fails the model; one inside passes."""
    golden = digits_model.golden
    for distance, passes in ((2.0, False), (0.5, True)):
        scores = golden.scores.copy()
        scores[-1, 3] += np.float32(distance * golden.tolerances["fp32"])
        model = with_golden(digits_model, replace(golden, scores=scores))
        if passes:
            self_test(model)
        else:
            with pytest.raises(SelfTestFailed, match=r"a score differs by 0\.0002 from the expected one, 0\.0001 is"):
                self_test(model)


def test_nan_fails(digits_model: Model) -> None:
    """A NaN fails, among the expected scores or the new ones."""
    scores = digits_model.golden.scores.copy()
    scores[0, 0] = np.nan
    with pytest.raises(SelfTestFailed, match="a score differs by nan"):
        self_test(with_golden(digits_model, replace(digits_model.golden, scores=scores)))
    with pytest.raises(SelfTestFailed, match="a score differs by nan"):
        self_test(altered(digits_model, lambda scores: np.full_like(scores, np.nan)))


def test_scores_that_depend_on_neighbours_fail(digits_model: Model) -> None:
    """A model fails if a single bit of a score depends on the other images of the batch."""

    def last_bit(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.nextafter(scores, np.float32(1)) if len(scores) > 1 else scores

    with pytest.raises(SelfTestFailed, match="an image's scores depend on the other images in its batch"):
        self_test(altered(digits_model, last_bit))


def test_golden_image_that_does_not_decode(digits_model: Model) -> None:
    golden = replace(digits_model.golden, images=(b"no image", *digits_model.golden.images[1:]))
    with pytest.raises(SelfTestFailed, match="a golden image can't be decoded here"):
        self_test(with_golden(digits_model, golden))


def test_golden_set_of_another_model(digits_model: Model) -> None:
    """A golden set with another number of classes, or without a tolerance for the precision, is damaged."""
    scores = digits_model.golden.scores[:, :9]
    with pytest.raises(DamagedArtifact, match=r"has scores \[\d+, 9\] but the graph gives \[\d+, 10\]"):
        self_test(with_golden(digits_model, replace(digits_model.golden, scores=scores)))
    with pytest.raises(DamagedArtifact, match="has no tolerance for precision 'fp32'"):
        self_test(with_golden(digits_model, replace(digits_model.golden, tolerances={})))
