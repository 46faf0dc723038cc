"""The database counts as people would."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.log.accuracy import Accuracy
from service.log.database import reading
from service.log.selection import Selection
from service.log.summary import Summary, summarise
from service.log.url import parse_log_url
from tests.service.log.entries import DIGEST, entry, predictions
from tests.service.log.test_exporting import record

if TYPE_CHECKING:
    from pathlib import Path

    from service.log import LogEntry

OTHER = "sha256:" + "aa" * 32


def summary_of(url: str, selection: Selection | None = None) -> Summary:
    with reading(parse_log_url(url)) as connection:
        return summarise(connection, selection or Selection())


def at(day: int, hour: int = 12, minute: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


def answer(name: str, label: str, score: float, **fields: object) -> LogEntry:
    return entry(name, top_k=predictions((label, score)), **fields)


@pytest.fixture
def summary(url: str) -> Summary:
    """Return the summary of a small log."""
    refused = {"status": 415, "reason": "not_an_image", "top_k": ()}
    record(
        url,
        [
            answer("a", "cat", 0.5, time_utc=at(1, 23, 59)),
            answer("b", "cat", 0.9, time_utc=at(2, 0, 0)),
            answer("c", "dog", 1.0, time_utc=at(2), cached=True),
            answer("d", "dog", 0.25, time_utc=at(2), digest=OTHER, model=f"digits@{OTHER}"),
            entry("e", time_utc=at(2), **refused),
            entry("f", time_utc=at(2), status=503, reason="overloaded", top_k=()),
        ],
        [("a", 0, "cat"), ("b", 0, "dog"), ("c", 0, "dog"), ("e", 0, "dog"), ("unknown", 0, "dog")],
    )
    return summary_of(url)


def test_by_day_and_digest(summary: Summary) -> None:
    """Days are those of UTC. A refused image has no part in scores and accuracy."""
    assert [
        (day.day, day.digest, day.images, day.refused, day.cached, day.mean_score, day.accuracy and day.accuracy.acc1)
        for day in summary.days
    ] == [
        ("2026-01-01", DIGEST, 1, 0, 0, 0.5, 1.0),
        ("2026-01-02", DIGEST, 4, 2, 1, 0.95, 0.5),
        ("2026-01-02", OTHER, 1, 0, 0, 0.25, None),
    ]


def test_totals(summary: Summary) -> None:
    """Statuses with their reasons, labels with their precision, and scores."""
    assert summary.images == 6
    assert [(each.status, each.reason, each.images) for each in summary.statuses] == [
        (200, None, 4),
        (415, "not_an_image", 1),
        (503, "overloaded", 1),
    ]
    assert [(each.label, each.images, each.mean_score) for each in summary.labels] == [
        ("cat", 2, 0.7),
        ("dog", 2, 0.625),
    ]
    assert [each.accuracy and (each.accuracy.correct, each.accuracy.images) for each in summary.labels] == [
        (1, 2),
        (1, 1),
    ]
    assert summary.accuracy is not None
    assert (summary.accuracy.correct, summary.accuracy.images) == (2, 3)
    assert summary.scores.images == 4
    assert summary.scores.mean == pytest.approx(0.6625)
    assert summary.scores.histogram == (0, 0, 1, 0, 0, 1, 0, 0, 0, 2)
    assert summary.scores.quantiles == {"0.05": 0.25, "0.25": 0.25, "0.5": 0.5, "0.75": 0.9, "0.95": 1.0}


def test_selected(summary: Summary, url: str) -> None:
    """A selection holds for every part of the summary."""
    found = summary_of(url, Selection(since=at(2), digest=OTHER))
    assert [day.digest for day in found.days] == [OTHER]
    assert (found.images, found.labels[0].images, found.scores.images, found.accuracy) == (1, 1, 1, None)


def test_an_empty_log(url: str) -> None:
    """Nothing is divided by nothing."""
    record(url, [])
    found = summary_of(url)
    assert (found.images, found.days, found.labels, found.scores.mean, found.scores.quantiles) == (0, (), (), None, {})


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1, width=32)), min_size=1, max_size=40))
def test_distributions(answers: list[tuple[str, float]]) -> None:
    """They are those of the scores themselves, to within the width of a bin."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/log.db"
        record(url, [answer(str(number), *each) for number, each in enumerate(answers)])
        found = summary_of(url)
    assert {each.label: each.images for each in found.labels} == Counter(label for label, _ in answers)
    ordered = sorted(score for _, score in answers)
    assert sum(found.scores.histogram) == len(answers)
    for share, value in found.scores.quantiles.items():
        exact = ordered[math.ceil(float(share) * len(ordered)) - 1]
        assert value - 1e-9 <= exact < value + 0.001 + 1e-9


class TestWilson:
    def test_published_values(self) -> None:
        """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29."""
        for correct, images, low, high in (
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ):
            found = Accuracy.of(correct, images)
            assert found is not None
            assert (round(found.low, 4), round(found.high, 4)) == (low, high)

    @given(st.integers(1, 10**9).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
    def test_holds_the_share(self, case: tuple[int, int]) -> None:
        """The interval holds the observed share, and lies within 0 and 1."""
        found = Accuracy.of(*case)
        assert found is not None
        assert 0 <= found.low <= found.acc1 <= found.high <= 1

    def test_without_images(self) -> None:
        """There is no accuracy of nothing."""
        assert Accuracy.of(0, 0) is None


def test_a_log_that_is_no_log(tmp_path: Path) -> None:
    """A file that is missing is not made, and an empty database is not taken for an empty log."""
    from classifier.errors import LogError

    missing = tmp_path / "missing.db"
    with pytest.raises(LogError, match="unable to open"):
        summary_of(f"sqlite:///{missing}")
    assert not missing.exists()
    missing.touch()
    with pytest.raises(LogError, match="holds no prediction log"):
        summary_of(f"sqlite:///{missing}")
