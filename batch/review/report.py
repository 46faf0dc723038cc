"""The report: the results of a run as one HTML page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batch.review.page import render_page
from batch.review.results import open_results
from batch.review.status import summarise
from batch.review.survey import survey, top_scores
from batch.review.thumbnails import thumbnails
from batch.run.folder import REPORT
from classifier.errors import OutputError
from classifier.files import replace_file
from classifier.progress import show_progress

if TYPE_CHECKING:
    from pathlib import Path


def write_report(output: Path, file: Path | None = None, *, with_images: bool = True) -> Path:
    """Write the page of the run in `output`, and return its path: `file`, or `report.html` in the output.

    Raises:
        OutputError: there is no run, a part can't be read, or the page can't be written.
    """
    results = open_results(output)
    file = file or output / REPORT
    _check_writable(file)  # before reading all rows
    status = summarise(results)
    with show_progress(status.images) as advance:
        seen = survey(results, advance)
    shown = [*seen.least_certain, *seen.surest_mistakes]
    page = render_page(
        results,
        status,
        seen,
        top=top_scores(results, shown),
        thumbnails=thumbnails({image.position: image for image in shown}.values()) if with_images else None,
    )
    _write(file, page.encode("utf-8"))
    return file


def _check_writable(file: Path) -> None:
    if not os.access(file.absolute().parent, os.W_OK):
        raise OutputError(
            f"the report '{file}' can't be written: its folder is missing or read-only; name another file with --output"
        )
    if file.exists() and not file.is_file():
        raise OutputError(f"the report '{file}' can't be written: it is not a regular file; name another one")


def _write(file: Path, page: bytes) -> None:
    """Write the page whole or not at all."""
    try:
        replace_file(file, page)
    except OSError as error:
        raise OutputError(
            f"the report '{file}' can't be written ({error.strerror}); put that right, or name another file with "
            "--output"
        ) from error
