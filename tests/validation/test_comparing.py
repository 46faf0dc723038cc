"""The comparison of two models' scores."""

from __future__ import annotations

import numpy as np
import pytest

from classifier.errors import DataError
from tests.validation.scored import scored_files
from validation.comparing import compare_scores

LABELS = ("ant", "bee", "cat")


def one_hot(given: list[int]) -> np.ndarray:
    return np.eye(3)[given] * 0.8 + 0.1


def test_only_disagreements_decide() -> None:
    """Counts, the difference and the images that differ are those that one can count by hand."""
    truth = [0, 0, 1, 1, 2, 2]
    a = scored_files(one_hot([0, 0, 1, 0, 0, 2]), truth, LABELS, name="a")
    b = scored_files(one_hot([0, 1, 1, 1, 1, 2]), truth, LABELS, name="b")
    result = compare_scores(a, b)
    assert (result.a_only, result.b_only, result.images) == (1, 1, 6)
    assert (result.a.correct, result.b.correct, result.difference, result.p_value) == (4, 4, 0.0, 1.0)
    assert (result.verdict, result.margin, result.passed) == ("undecided", None, None)
    assert [(each.path, each.a.label, each.b.label) for each in result.differences] == [
        ("ant/1.png", "ant", "bee"),
        ("bee/3.png", "ant", "bee"),
        ("cat/4.png", "ant", "bee"),
    ]
    assert [(each.label, each.support, each.a_only, each.b_only) for each in result.per_class] == [
        ("ant", 2, 1, 0),
        ("bee", 2, 0, 1),
        ("cat", 2, 0, 0),
    ]
    assert (result.a.digest, result.b.digest, result.data.digest) == ("sha256:a", "sha256:b", "sha256:data")


def test_the_better_model_is_called_better_from_either_side() -> None:
    """Swapping A and B turns the verdict and the interval; the margin is about B."""
    truth = [0] * 100
    good = scored_files(one_hot([0] * 100), truth, LABELS, name="good")
    bad = scored_files(one_hot([1] * 20 + [0] * 80), truth, LABELS, name="bad")
    up, down = compare_scores(bad, good, margin=0.0), compare_scores(good, bad, margin=0.25)
    assert (up.verdict, up.passed, up.difference) == ("better", True, 0.2)
    assert (down.verdict, down.passed, down.difference) == ("worse", False, -0.2)
    assert (up.low, up.high) == pytest.approx((-down.high, -down.low))
    assert compare_scores(good, bad, margin=0.35).passed


def test_labels_in_another_order() -> None:
    """A label is compared by its name: the same answers from a model with another order don't differ."""
    a = scored_files(one_hot([0, 1, 2, 1]), [0, 1, 2, 2], LABELS)
    order = (2, 0, 1)
    truth = [order.index(label) for label in (0, 1, 2, 2)]
    b = scored_files(one_hot([0, 1, 2, 1])[:, order], truth, [LABELS[i] for i in order])
    result = compare_scores(a, b)
    assert (result.differences, result.a_only, result.b_only) == ((), 0, 0)
    assert result.a.correct == result.b.correct == 3


def test_an_image_that_one_model_has_no_scores_for() -> None:
    """That is a mistake of this model. An image that neither can classify is not compared."""
    nothing = np.full((1, 3), np.nan)
    a = scored_files(np.concatenate([one_hot([0, 1]), nothing]), [0, 1, 2], LABELS)
    b = scored_files(np.concatenate([one_hot([0]), nothing, nothing]), [0, 1, 2], LABELS)
    result = compare_scores(a, b)
    assert (result.images, result.a.correct, result.b.correct) == (2, 2, 1)
    (difference,) = result.differences
    assert (difference.path, difference.a.label, difference.b.label) == ("bee/1.png", "bee", None)


def test_what_can_not_be_compared() -> None:
    """Other labels, and images that changed in between, are an error that says so."""
    a = scored_files(one_hot([0]), [0], LABELS, name="a")
    with pytest.raises(DataError, match=r"different labels \(a@sha256:a has 'cat', b@sha256:b lacks it\)"):
        compare_scores(a, scored_files(np.array([[1.0, 0.0]]), [0], LABELS[:2], name="b"))
    with pytest.raises(DataError, match="changed while they were compared; compare again"):
        compare_scores(a, scored_files(one_hot([0]), [0], LABELS, digest="sha256:other"))


@pytest.mark.parametrize(("images", "seldom"), [(40, 0.05), (400, 0.3)])
def test_equal_models_are_seldom_told_apart(images: int, seldom: float) -> None:
    """Of 1,000 comparisons of equally good models, at most 5 % call one better or worse."""
    random = np.random.default_rng(images)
    wrong = 0
    for _ in range(1000):
        truth = random.integers(0, 3, images)
        given = [np.where(random.uniform(size=images) < seldom, (truth + 1) % 3, truth) for _ in range(2)]
        a, b = (scored_files(one_hot(each.tolist()), truth.tolist(), LABELS) for each in given)
        wrong += compare_scores(a, b).verdict != "undecided"
    assert wrong <= 50
