"""The statistics of two classifiers: exact where they are exact, and of the coverage that they claim."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.paired import Z, mcnemar, paired_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Counts = tuple[int, int, int]

counts = st.integers(1, 2000).flatmap(
    lambda images: st.integers(0, images).flatmap(
        lambda first: st.tuples(st.just(first), st.integers(0, images - first), st.just(images))
    )
)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    """The p-value is twice the smaller tail of a fair coin, in fractions; it does not depend on the order."""
    total = first + second
    tail = sum(Fraction(math.comb(total, k), 2**total) for k in range(min(first, second) + 1))
    assert mcnemar(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (15, 5, 0.0413895)])
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    """Five to nothing is not yet enough, six is; no disagreement at all says nothing."""
    assert mcnemar(first, second) == pytest.approx(p, abs=1e-7)


@pytest.mark.timeout(60)
def test_mcnemar_of_a_million_images() -> None:
    """Large counts neither overflow nor take long."""
    assert mcnemar(500_000, 500_000) == 1.0
    assert 0 < mcnemar(499_000, 501_000) < 0.05


@given(counts)
def test_the_interval_holds_the_difference(counts: Counts) -> None:
    """It is inside [-1, 1], holds the measured difference, is never a point, and turns with the order."""
    first, second, images = counts
    low, high = paired_interval(first, second, images)
    assert -1 <= low <= (second - first) / images <= high <= 1
    assert low < high
    assert paired_interval(second, first, images) == pytest.approx((-high, -low), abs=1e-9)


@given(st.integers(1, 10**6))
def test_models_that_agree_on_all_images(images: int) -> None:
    """The interval is then z² / (n + z²) to both sides."""
    half = Z**2 / (images + Z**2)
    assert paired_interval(0, 0, images) == pytest.approx((-half, half), rel=1e-6)


@pytest.mark.parametrize("counts", [(12, 2, 50), (3, 9, 40), (40, 55, 600), (1, 7, 20)])
def test_the_ends_are_where_the_score_test_rejects(counts: Counts) -> None:
    """At both ends the score statistic is ±z, with the nuisance parameter found by searching the likelihood."""
    first, second, images = counts

    def statistic(difference: float) -> float:
        # `loss`: the probability that only the first is right; that of only the second is `difference` more.
        loss = np.linspace(max(0.0, -difference), (1 - difference) / 2, 2_000_001)[1:-1]
        likelihood = (
            second * np.log(loss + difference)
            + first * np.log(loss)
            + (images - first - second) * np.log(1 - 2 * loss - difference)
        )
        best = float(loss[likelihood.argmax()])
        return (second - first - images * difference) / math.sqrt(images * (2 * best + difference - difference**2))

    low, high = paired_interval(*counts)
    assert statistic(low) == pytest.approx(Z, abs=1e-3)
    assert statistic(high) == pytest.approx(-Z, abs=1e-3)


@cache
def all_outcomes(images: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return all counts `[M, 2]` that `images` can give, their intervals `[M, 2]`, and their log multiplicities."""
    pairs = [(first, second) for first in range(images + 1) for second in range(images + 1 - first)]
    log = [
        math.lgamma(images + 1) - math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(images - a - b + 1)
        for a, b in pairs
    ]
    return np.array(pairs), np.array([paired_interval(a, b, images) for a, b in pairs]), np.array(log)


def chance(images: int, loss: float, gain: float, event: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> float:
    """Return the exact probability that the interval has a property.

    Args:
        images: number of images.
        loss: the probability that only the first is right.
        gain: the probability that only the second is right.
        event: takes the intervals `[M, 2]`.
    """
    pairs, intervals, log = all_outcomes(images)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(pairs * np.log([loss, gain]), nan=0.0, neginf=-np.inf)
        rest = np.nan_to_num((images - pairs.sum(axis=1)) * np.log(1 - loss - gain), nan=0.0, neginf=-np.inf)
    return float(np.exp(log + terms.sum(axis=1) + rest)[event(intervals)].sum())


GRID = [x / 200 for x in range(12)] + [x / 50 for x in range(3, 21)]


@pytest.mark.parametrize("images", [10, 20, 50, 100])
def test_coverage(images: int) -> None:
    """Of all samples, 95 % of the intervals hold the true difference: exactly, for differences of up to 20 points."""
    found = []
    for loss in GRID:
        for gain in GRID:
            if abs(true := gain - loss) <= 0.2:
                held = chance(
                    images, loss, gain, lambda ends, d=true: (ends[:, 0] <= d + 1e-9) & (d - 1e-9 <= ends[:, 1])
                )  # type: ignore[misc]
                found.append(held)
    assert min(found) > 0.92
    assert 0.95 < float(np.mean(found)) < 0.99


@pytest.mark.parametrize("images", [20, 50, 100])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
def test_a_model_that_is_worse_by_the_margin_rarely_passes(images: int, margin: float) -> None:
    """However often the models disagree, a model that is worse by the margin passes in at most 5 % of all samples."""
    rates = [chance(images, gain + margin, gain, lambda ends: ends[:, 0] > -margin) for gain in GRID]
    assert max(rates) < 0.05
