"""The numbers of `tandem val`, beside scikit-learn's and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.validation.scored import scored_files
from validation.measuring import CALIBRATION_BINS, WORST_MISTAKES, calibrate, validate

LABELS = ("ant", "bee", "cat")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_classes_are_as_scikit_learn_measures_them() -> None:
    """Precision, recall and F1 of each class equal scikit-learn's."""
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    truth, scores = random.integers(0, 3, 200), softmax(random.normal(size=(200, 3)))
    result = validate(scored_files(scores, truth.tolist(), LABELS))
    expected = metrics.precision_recall_fscore_support(truth, scores.argmax(axis=1))
    found = [[each.precision, each.recall, each.f1, each.support] for each in result.per_class]
    assert found == [pytest.approx(row, abs=1e-6) for row in np.transpose(expected)]
    assert result.acc1 == pytest.approx(metrics.accuracy_score(truth, scores.argmax(axis=1)), abs=1e-6)
    assert sum(count for row in result.confusion.values() for count in row.values()) == result.images == 200
    assert (result.correct, result.mistakes) == (round(200 * result.acc1), 200 - result.correct)


def test_a_class_that_no_image_has() -> None:
    """What can't be measured is None, not 0: recall without images, precision without predictions, F1 without both."""
    result = validate(scored_files(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), [0, 0], LABELS))
    ant, bee, cat = result.per_class
    assert (ant.precision, ant.recall, ant.f1) == (1.0, 0.5, pytest.approx(2 / 3, abs=1e-6))
    assert (bee.precision, bee.recall, bee.f1) == (0.0, None, 0.0)
    assert (cat.precision, cat.recall, cat.f1, cat.support) == (None, None, None, 0)
    assert result.confusion == {"ant": {"ant": 1, "bee": 1}}


def test_the_worst_mistakes_come_first() -> None:
    """The highest scores of wrong labels are listed, with the right label's score; failed images are left out."""
    scores = np.array([[0.6, 0.3, 0.1], [np.nan] * 3, [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])
    result = validate(scored_files(scores, [1, 0, 0, 1], LABELS))
    assert [(each.path, each.position, each.label, each.given) for each in result.worst] == [
        ("ant/2.png", 2, "ant", "bee"),
        ("bee/0.png", 0, "bee", "ant"),
    ]
    assert result.worst[0].score == pytest.approx(0.8)
    assert result.worst[0].label_score == pytest.approx(0.1)
    assert (result.images, len(result.failed), result.mistakes) == (3, 1, 2)
    many = validate(scored_files(np.tile([0.2, 0.8, 0.0], (50, 1)), [0] * 50, LABELS))
    assert (len(many.worst), many.mistakes) == (WORST_MISTAKES, 50)


def test_calibration_by_hand() -> None:
    """Scores of 0.9 that are right half the time are off by 0.4; scores of 1.0 that are always right, by nothing."""
    found = calibrate(np.array([0.9, 0.9, 1.0, 1.0], np.float32), np.array([True, False, True, True]))
    assert found.ece == pytest.approx(0.2, abs=1e-6)
    assert [(each.images, each.acc1) for each in found.bins if each.images] == [(2, 0.5), (2, 1.0)]
    assert len(found.bins) == CALIBRATION_BINS
    assert (found.bins[0].low, found.bins[-1].high) == (0.0, 1.0)


def test_a_calibrated_model_has_no_error() -> None:
    """If labels are right as often as the scores say, the error of many images is close to 0."""
    random = np.random.default_rng(1)
    top = random.uniform(0.2, 1.0, 200_000).astype(np.float32)
    assert calibrate(top, random.uniform(size=len(top)) < top).ece < 0.005


def test_scores_at_the_ends() -> None:
    """A score of 0 and one a little above 1, which float32 can give, are in the first and the last bin."""
    found = calibrate(np.array([0.0, 1.0000001], np.float32), np.array([False, True]))
    assert (found.bins[0].images, found.bins[-1].images) == (1, 1)
