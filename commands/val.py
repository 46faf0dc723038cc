"""`tandem val`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from classifier.wording import counted, one_line, table_lines
from commands.exit_codes import FAILED_IMAGES
from commands.options import engine_options, measured_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from validation.measuring import Validation
    from validation.scoring import FailedImage

NAMED_FAILED = 5

SHOWN_CLASSES = 30
"""Most rows of the table. Of more classes, those with the lowest recall are shown."""

_EXAMPLE = """\b
Example:
  tandem val digits:production ~/.tandem/datasets/digits/test --report val.html
"""


@click.command(short_help="Measure a model on labelled images.", epilog=_EXAMPLE)
@click.argument("model", metavar="MODEL")
@click.argument("folder", metavar="FOLDER")
@measured_options
@engine_options
@click.pass_context
def val(
    ctx: click.Context, /, *, model: str, folder: str, json_file: Path | None, report: Path | None,
    batch_size: int | None, **engine: Any,
) -> None:  # fmt: skip
    """Measure MODEL on the images of FOLDER, which holds a folder of images for each label.

    The scores are those of 'tandem batch'. Measured are acc1 and acc5, precision, recall and F1 of each class, the
    confusion matrix, the calibration of the scores, and the mistakes with the highest scores. Not every label needs a
    folder, but every folder needs to be a label. The model stays as it is: 'tandem evaluate' is what adds evidence on
    its precisions to it.

    Exit codes: 0 done, 1 could not measure, 2 wrong usage, 3 done, but some images can't be classified: they are named
    and not in the numbers.
    """
    from classifier.types import to_json
    from commands.results import check_writable, write_result
    from registry import open_model
    from validation.folders import labelled_files
    from validation.measuring import validate
    from validation.pages import validation_page
    from validation.scoring import score_files

    check_writable(json_file, report)
    opened = open_model(model, **engine, batch_size=batch_size, tuning="throughput")  # as a bulk run opens it
    labelled = labelled_files(folder, opened.config.labels, model=opened.identity)
    scored = score_files(opened, labelled, batch_size=batch_size)
    result = validate(scored)
    for line in summarise(result):
        click.echo(one_line(line))
    if json_file is not None:
        write_result(json_file, to_json(result))
    if report is not None:
        write_result(report, validation_page(result, scored).encode())
    ctx.exit(FAILED_IMAGES if result.failed else 0)


def summarise(result: Validation) -> list[str]:
    """Return the result as text: the model, a table of the classes with images, and the totals."""
    acc5 = "" if result.acc5 is None else f", acc5 {result.acc5:.2%}"
    classes = [each for each in result.per_class if each.support]
    absent, more = len(result.per_class) - len(classes), len(classes) - SHOWN_CLASSES
    if more > 0:
        classes = sorted(classes, key=lambda each: each.recall or 0.0)[:SHOWN_CLASSES]
    rows = [
        (each.label, f"{each.support:,}", _share(each.precision), _share(each.recall), _share(each.f1))
        for each in classes
    ]
    totals = (
        f"{counted(result.images, 'image')}: acc1 {result.acc1:.2%} ({result.correct:,} right){acc5}, "
        f"calibration error {result.calibration.ece:.2%}"
    )
    return [
        result.model,
        f"  {result.engine}",
        *table_lines(("CLASS", "IMAGES", "PRECISION", "RECALL", "F1"), rows),
        *([f"{more:,} more classes, with a higher recall"] if more > 0 else []),
        *([f"no images of {counted(absent, 'label')} of the model"] if absent else []),
        *name_failed(result.failed),
        totals,
    ]


def name_failed(failed: Sequence[FailedImage]) -> list[str]:
    """Return a line for each of the first failed images, and one that counts the rest."""
    lines = [f"failed: {each.path}: {each.reason}: {each.error}" for each in failed[:NAMED_FAILED]]
    return [*lines, f"failed: {len(failed) - NAMED_FAILED:,} more"] if len(failed) > NAMED_FAILED else lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
