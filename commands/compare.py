"""`tandem compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from classifier.wording import counted, one_line, table_lines
from commands.exit_codes import FAILED_IMAGES, MAYBE_WORSE
from commands.options import Number, engine_options, measured_options
from commands.val import name_failed

if TYPE_CHECKING:
    from pathlib import Path

    from validation.comparing import Comparison

_EXAMPLE = """\b
Example:
  tandem compare digits:production digits:3 ~/.tandem/datasets/digits/test --report compare.html
  tandem compare digits:production digits:3 labelled --fail-if-worse 0.005 && tandem models tag digits:3 production
"""

MOST_CHANGED = 10


@click.command(short_help="Say which of two models is better, and by how much.", epilog=_EXAMPLE)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--fail-if-worse",
    "margin",
    metavar="MARGIN",
    type=Number(0, 1),
    help="Exit with 8 unless the lower end of the interval of B's acc1 minus A's is above -MARGIN: 0.005 is half a "
    "point.",
)
@measured_options
@engine_options
@click.pass_context
def compare(
    ctx: click.Context, /, *, a: str, b: str, folder: str, margin: float | None, json_file: Path | None,
    report: Path | None, batch_size: int | None, **engine: Any,
) -> None:  # fmt: skip
    """Compare model B with model A on the images of FOLDER, which holds a folder of images for each label.

    A is the model to beat, such as the one in production. Both classify the same images as 'tandem batch' does. The
    result is the difference of their acc1 with a 95 % interval (Tango's score interval of a paired difference) and the
    p-value of McNemar's exact test. B is called better or worse only if the interval excludes 0 and p is below 0.05.
    The JSON holds the digests of both models and of the images.

    Exit codes: 0 done, 1 could not compare, 2 wrong usage, 3 done, but some images can't be classified, 8 B may be
    worse than --fail-if-worse allows.
    """
    from classifier.types import to_json
    from commands.results import check_writable, write_result
    from registry import LocalRegistry, fetch_model, open_model
    from validation.comparing import check_labels, compare_scores
    from validation.folders import labelled_files
    from validation.pages import comparison_page
    from validation.scoring import score_files

    check_writable(json_file, report)
    registry = LocalRegistry.default()
    first, second = (fetch_model(reference, registry) for reference in (a, b))
    check_labels(first.config.labels, second.config.labels, models=(first.identity, second.identity))
    labelled = labelled_files(folder, first.config.labels, model=first.identity)
    scored = []
    for artifact in (first, second):
        # By digest: a tag may have moved since.
        model = open_model(artifact.identity, registry=registry, **engine, batch_size=batch_size, tuning="throughput")
        scored.append(score_files(model, labelled.for_labels(model.config.labels), batch_size=batch_size))
        del model  # one at a time: a GPU may not hold both
    result = compare_scores(*scored, margin=margin)
    for line in summarise(result):
        click.echo(one_line(line))
    if json_file is not None:
        write_result(json_file, to_json(result))
    if report is not None:
        write_result(report, comparison_page(result, scored[0]).encode())
    failed = result.a.failed or result.b.failed
    ctx.exit(MAYBE_WORSE if result.passed is False else FAILED_IMAGES if failed else 0)


def summarise(result: Comparison) -> list[str]:
    """Return the result as text, the verdict last."""
    lines = []
    for name, side in (("A", result.a), ("B", result.b)):
        lines.append(f"{name} {side.model}")
        lines.append(f"  {side.engine}: acc1 {side.acc1:.2%} ({side.correct:,} of {result.images:,} right)")
    changed = [each for each in result.per_class if each.a_only or each.b_only]
    changed.sort(key=lambda each: each.b_recall - each.a_recall)
    rows = [
        (each.label, f"{each.support:,}", f"{each.a_recall:.2%}", f"{each.b_recall:.2%}", f"{each.a_only:,}",
         f"{each.b_only:,}")
        for each in changed[:MOST_CHANGED]
    ]  # fmt: skip
    if rows:
        lines += table_lines(("CLASS", "IMAGES", "RECALL OF A", "OF B", "ONLY A RIGHT", "ONLY B RIGHT"), rows)
    if len(changed) > len(rows):
        lines.append(f"{len(changed) - len(rows):,} more classes differ")
    failed = list(dict.fromkeys((*result.a.failed, *result.b.failed)))
    lines += name_failed(failed)
    lines.append(
        f"{counted(result.images, 'image')}, {len(result.differences):,} with different labels: only A is right on "
        f"{result.a_only:,}, only B on {result.b_only:,}"
    )
    lines.append(
        f"B − A: {_points(result.difference)} points of acc1, 95 % interval {_points(result.low)} to "
        f"{_points(result.high)}, p = {result.p_value:.2g}"
    )
    if result.margin is not None:
        lines.append(
            f"{'passed' if result.passed else 'NOT passed'}: the lower end, {_points(result.low)}, is "
            f"{'above' if result.passed else 'not above'} -{100 * result.margin:g} points"
        )
    lines.append("no difference is shown" if result.verdict == "undecided" else f"B is {result.verdict} than A")
    return lines


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"
