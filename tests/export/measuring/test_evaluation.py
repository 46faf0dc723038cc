from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from classifier.artifact import EVALUATION
from classifier.types import from_json, to_json
from export.measuring.evaluation import Evaluation, Metrics, measure, round_up

if TYPE_CHECKING:
    from registry import Artifact


def random_scores(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.ones(classes), images).astype(np.float32)
    truth = np.where(random.random(images) < 0.6, scores.argmax(axis=1), random.integers(0, classes, images))
    return scores, truth


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (200, 3), (500, 12)])
def test_every_number_equals_scikit_learns(images: int, classes: int) -> None:
    labels = [f"label {i}" for i in range(classes)]
    scores, truth = random_scores(images, classes, seed=classes)
    measured = measure(scores, truth, labels)
    predicted = scores.argmax(axis=1)

    assert measured.acc1 == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted), abs=1e-6)
    if classes > 5:
        top5 = sklearn_metrics.top_k_accuracy_score(truth, scores, k=5, labels=range(classes))
        assert measured.acc5 == pytest.approx(top5, abs=1e-6)
    else:
        assert measured.acc5 is None
    loss = -np.log(scores[np.arange(images), truth].astype(float)).mean()
    assert measured.loss == pytest.approx(loss, abs=1e-6)

    precision, recall, _, support = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(classes), zero_division=np.nan
    )
    for index, each in enumerate(measured.per_class):
        assert each.label == labels[index]
        assert each.support == support[index]
        for ours, theirs in ((each.precision, precision[index]), (each.recall, recall[index])):
            assert (ours is None and np.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-6)

    confusion = sklearn_metrics.confusion_matrix(truth, predicted, labels=range(classes))
    assert [[measured.confusion[a].get(b, 0) for b in labels] for a in labels] == confusion.tolist()


def test_ties_go_to_the_lower_index_as_in_top_k() -> None:
    scores = np.full((6, 6), 1 / 6, np.float32)
    measured = measure(scores, np.arange(6), list("abcdef"))
    assert measured.acc1 == pytest.approx(1 / 6, abs=1e-6)
    assert measured.acc5 == pytest.approx(5 / 6, abs=1e-6)


def test_a_probability_of_zero_for_the_truth_leaves_the_loss_finite() -> None:
    """JSON has no infinity."""
    measured = measure(np.array([[1, 0]], np.float32), np.array([1]), ["a", "b"])
    assert 80 < measured.loss < 100
    assert from_json(to_json(measured), Metrics) == measured


def test_precision_and_recall_without_images_are_null_not_zero() -> None:
    measured = measure(np.array([[1, 0, 0]], np.float32), np.array([0]), ["a", "b", "c"])
    assert [(each.precision, each.recall, each.support) for each in measured.per_class] == [
        (1.0, 1.0, 1),
        (None, None, 0),
        (None, None, 0),
    ]


@given(st.floats(min_value=1e-12, max_value=1))
def test_a_difference_is_never_rounded_down(value: float) -> None:
    rounded = round_up(value)
    assert value <= rounded <= value * 1.1
    assert float(f"{rounded:.1e}") == rounded


def test_a_difference_of_zero_stays_zero() -> None:
    assert round_up(0.0) == 0.0


def test_evaluation_round_trips_through_json(artifact: Artifact) -> None:
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    assert from_json(to_json(evaluation), Evaluation) == evaluation
    assert to_json(evaluation) == artifact.read(EVALUATION)
