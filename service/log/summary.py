"""What a prediction log says: counts, the distribution of labels and scores, and the accuracy that feedback shows.

The database aggregates; what comes here is one row for each day and model, status, label or bin of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from service.log.accuracy import Accuracy
from service.log.schema import FEEDBACK, PREDICTIONS
from service.log.selection import TRUTH_OF_PREDICTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Connection

    from service.log.selection import Selection

_BINS = 1000
"""Scores are counted in bins of 0.001; the last one has the scores of 1 alone."""
_HISTOGRAM_BINS = 10
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One model on one day.

    Attributes:
        day: in UTC, `2026-01-31`.
        images: entries, whatever became of them.
        refused: of these, with a status of 400 or more.
        cached: of these, answered from the result cache.
        mean_score: of the top label; None if every image was refused.
        accuracy: None without feedback.
    """

    day: str
    digest: str
    model: str
    images: int
    refused: int
    cached: int
    mean_score: float | None
    accuracy: Accuracy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How many images got a status, and for which reason."""

    status: int
    reason: str | None
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """How often a label was the top one, and how sure the model was.

    Attributes:
        images: whose top label this is.
        mean_score: of this label in these answers.
        accuracy: how often it was right: the label's precision. None without feedback.
    """

    label: str
    images: int
    mean_score: float
    accuracy: Accuracy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The distribution of the top label's score.

    Attributes:
        images: with a score.
        mean: None without images.
        quantiles: by share, `0.05` to `0.95`, rounded down to 0.001.
        histogram: images by tenth: from 0, from 0.1, … from 0.9 to 1.
    """

    images: int
    mean: float | None
    quantiles: dict[str, float]
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a prediction log says.

    Attributes:
        days: by day, then digest.
        statuses: by status, then reason.
        labels: the most frequent first.
        accuracy: of all models and days; None without feedback.
    """

    images: int
    days: tuple[Day, ...]
    statuses: tuple[Status, ...]
    labels: tuple[Label, ...]
    scores: Scores
    accuracy: Accuracy | None


def summarise(connection: Connection, selection: Selection) -> Summary:
    """Return the summary of the selected rows."""
    days, statuses = _days(connection, selection), _statuses(connection, selection)
    judged = [day.accuracy for day in days if day.accuracy is not None]
    return Summary(
        images=sum(status.images for status in statuses),
        days=days,
        statuses=statuses,
        labels=_labels(connection, selection),
        scores=_scores(connection, selection),
        accuracy=Accuracy.of(sum(each.correct for each in judged), sum(each.images for each in judged)),
    )


def _days(connection: Connection, selection: Selection) -> tuple[Day, ...]:
    table, day = PREDICTIONS.c, _day_of(connection).label("day")
    keys = (day, table.digest)
    query = sa.select(
        *keys,
        sa.func.max(table.model).label("model"),
        sa.func.count().label("images"),
        _count(table.status >= 400).label("refused"),
        _count(table.cached).label("cached"),
        sa.func.avg(table.score).label("mean_score"),
    )
    rows = connection.execute(query.where(*selection.conditions()).group_by(*keys).order_by(*keys)).mappings()
    accuracies = _accuracies(connection, selection, *keys)
    return tuple(Day(**row, accuracy=accuracies.get((row["day"], row["digest"]))) for row in rows)


def _statuses(connection: Connection, selection: Selection) -> tuple[Status, ...]:
    keys = (PREDICTIONS.c.status, PREDICTIONS.c.reason)
    query = sa.select(*keys, sa.func.count().label("images")).where(*selection.conditions()).group_by(*keys)
    found = [Status(**row) for row in connection.execute(query).mappings()]
    return tuple(sorted(found, key=lambda each: (each.status, each.reason or "")))


def _labels(connection: Connection, selection: Selection) -> tuple[Label, ...]:
    table = PREDICTIONS.c
    query = sa.select(table.label, sa.func.count().label("images"), sa.func.avg(table.score).label("mean_score"))
    rows = connection.execute(
        query.where(*selection.conditions(), table.label.is_not(None)).group_by(table.label)
    ).mappings()
    accuracies = _accuracies(connection, selection, table.label)
    found = [Label(**row, accuracy=accuracies.get((row["label"],))) for row in rows]
    return tuple(sorted(found, key=lambda each: (-each.images, each.label)))


def _scores(connection: Connection, selection: Selection) -> Scores:
    score = PREDICTIONS.c.score
    scaled = score * _BINS
    # A cast rounds in PostgreSQL, and floor() may be missing in SQLite, where a cast cuts off.
    floor = sa.func.floor(scaled) if connection.dialect.name == "postgresql" else scaled
    bin_ = sa.cast(floor, sa.Integer).label("bin")
    query = sa.select(bin_, sa.func.count().label("images"), sa.func.sum(score).label("sum"))
    rows = connection.execute(
        query.where(*selection.conditions(), score.is_not(None)).group_by(bin_).order_by(bin_)
    ).all()
    counts = {row.bin: row.images for row in rows}
    images = sum(counts.values())
    histogram = [0] * _HISTOGRAM_BINS
    for number, count in counts.items():
        histogram[min(number * _HISTOGRAM_BINS // _BINS, _HISTOGRAM_BINS - 1)] += count
    mean = sum(row.sum for row in rows) / images if images else None
    return Scores(images=images, mean=mean, quantiles=_quantiles(counts, images), histogram=tuple(histogram))


def _quantiles(counts: Mapping[int, int], images: int) -> dict[str, float]:
    """Return the quantiles: the bin of the image at the place ⌈share × images⌉, in order of the scores."""
    found: dict[str, float] = {}
    seen = 0
    for number, count in sorted(counts.items()):
        seen += count
        for share in _QUANTILES:
            if str(share) not in found and seen >= share * images:
                found[str(share)] = number / _BINS
    return found


def _accuracies(
    connection: Connection, selection: Selection, *keys: ColumnElement[Any]
) -> dict[tuple[Any, ...], Accuracy]:
    """Return the accuracy for each value of `keys`, where feedback exists."""
    query = (
        sa.select(*keys, _count(FEEDBACK.c.label == PREDICTIONS.c.label).label("correct"), sa.func.count().label("n"))
        .join_from(FEEDBACK, PREDICTIONS, TRUTH_OF_PREDICTION)
        .where(*selection.conditions(), PREDICTIONS.c.label.is_not(None))
        .group_by(*keys)
    )
    found: dict[tuple[Any, ...], Accuracy] = {}
    for *values, correct, images in connection.execute(query):
        if (accuracy := Accuracy.of(correct, images)) is not None:
            found[tuple(values)] = accuracy
    return found


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _day_of(connection: Connection) -> ColumnElement[str]:
    time = PREDICTIONS.c.time_utc
    if connection.dialect.name == "postgresql":
        return sa.func.to_char(sa.func.timezone("UTC", time), "YYYY-MM-DD")
    return sa.func.substr(sa.cast(time, sa.Text), 1, 10)
