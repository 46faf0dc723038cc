"""`tandem log summary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands.log.options import digest_option, since_option, until_option, url_option
from commands.options import json_option

if TYPE_CHECKING:
    from datetime import datetime

    from service.log.accuracy import Accuracy
    from service.log.summary import Summary
    from service.log.url import LogAddress

_EXAMPLE = """\b
Example:
  tandem log summary --url sqlite:///log.db
  tandem log summary --since 2026-01-01 --digest 3f953569 --json
"""
_LABELS_SHOWN = 20
_BAR_CHARS = 40


@click.command(epilog=_EXAMPLE)
@url_option
@since_option
@until_option
@digest_option
@json_option
def summary(
    *, address: LogAddress, since: datetime | None, until: datetime | None, digest: str | None, as_json: bool
) -> None:
    """Show counts by day and model, by status and by label, and how the scores are distributed.

    Where feedback exists, it shows the live accuracy with its 95 % confidence interval. The database does the
    counting, so memory stays small for logs of any size.
    """
    from classifier.types import to_json
    from classifier.wording import one_line
    from service.log.database import reading
    from service.log.selection import Selection
    from service.log.summary import summarise

    with reading(address) as connection:
        found = summarise(connection, Selection(since=since, until=until, digest=digest))
    if as_json:
        click.echo(to_json(found), nl=False)
        return
    for line in describe(found):
        click.echo(one_line(line))


def describe(summary: Summary) -> list[str]:
    """Return the summary as text."""
    from classifier.wording import counted, table_lines

    if not summary.images:
        return ["no entries"]
    with_feedback = f", accuracy {_share(summary.accuracy)}" if summary.accuracy else ", no feedback"
    lines = [f"{counted(summary.images, 'image')}{with_feedback}", ""]
    lines += table_lines(
        ("DAY", "MODEL", "IMAGES", "REFUSED", "CACHED", "MEAN SCORE", "ACCURACY"),
        [
            (day.day, _short(day.model), *_numbers(day.images, day.refused, day.cached), _score(day.mean_score),
             _share(day.accuracy))
            for day in summary.days
        ],
    )  # fmt: skip
    statuses = [(str(each.status), each.reason or "", f"{each.images:,}") for each in summary.statuses]
    lines += ["", *table_lines(("STATUS", "REASON", "IMAGES"), statuses)]
    labels = [
        (each.label, f"{each.images:,}", _score(each.mean_score), _share(each.accuracy))
        for each in summary.labels[:_LABELS_SHOWN]
    ]
    if labels:
        lines += ["", *table_lines(("LABEL", "IMAGES", "MEAN SCORE", "ACCURACY"), labels)]
        if more := len(summary.labels) - _LABELS_SHOWN:
            lines += [f"{counted(more, 'more label')} with --json"] * (more > 0)
        lines += ["", *_histogram(summary)]
    return lines


def _histogram(summary: Summary) -> list[str]:
    from classifier.wording import table_lines

    scores = summary.scores
    most = max(scores.histogram)
    bins = [
        (f"{number / 10:.1f}–{(number + 1) / 10:.1f}", f"{count:,}", "█" * round(_BAR_CHARS * count / most))
        for number, count in enumerate(scores.histogram)
    ]
    quantiles = ", ".join(f"{float(share):.0%} {value:.3f}" for share, value in scores.quantiles.items())
    return [*table_lines(("SCORE", "IMAGES", ""), bins), f"quantiles: {quantiles}"]


def _share(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "-"
    return f"{accuracy.acc1:.2%} of {accuracy.images:,} ({accuracy.low:.2%} to {accuracy.high:.2%})"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _numbers(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:,}" for number in numbers)


def _short(model: str) -> str:
    """Return a model's identity with the first characters of its digest, which `--digest` takes."""
    name, _, digest = model.partition("@sha256:")
    return f"{name}@{digest[:12]}" if digest else model
