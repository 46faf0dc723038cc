"""`tandem parity`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from classifier.wording import counted, one_line
from commands.exit_codes import NOT_IN_PARITY
from commands.options import engine_options

if TYPE_CHECKING:
    from parity.roads import ParityReport

_EXAMPLE = """\b
Example:
  bentoml serve
  tandem parity digits photos --service http://localhost:3000 --report parity.json
"""


@click.command(short_help="Prove that a service and a bulk run give the same scores.", epilog=_EXAMPLE)
@click.argument("model", metavar="MODEL")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "--service",
    metavar="URL",
    required=True,
    help="URL of the running service, http://localhost:3000. If it needs a key, set TANDEM_API_KEY.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report as JSON.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Compare the first N images only.")
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at a time.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Batch size of the bulk run. On a GPU bits depend on it: give the service's, 8, to compare every bit.",
)
@engine_options
@click.pass_context
def parity(
    ctx: click.Context,
    /,
    *,
    model: str,
    inputs: tuple[str, ...],
    service: str,
    report: Path | None,
    limit: int | None,
    concurrency: int,
    batch_size: int | None,
    **engine: Any,
) -> None:
    """Send the images of the INPUTs to a running service and through a bulk run, and compare every score.

    If both run the same engine, version, instruction set and precision on the same kind of device, the scores must be
    equal bit for bit; on a GPU, if their batch sizes are equal, too. Otherwise they must agree within the artifact's
    tolerance. Images that can't be classified must be refused by both for the same reason.

    Exit codes: 0 in parity, 1 could not compare, 2 wrong usage, 3 not in parity.
    """
    from batch.inputs.named import find_inputs
    from batch.inputs.plan import require_images
    from classifier.errors import OutputError
    from classifier.types import to_json
    from parity.client import ServiceClient
    from parity.roads import compare_roads
    from registry import open_model

    if report is not None and not os.access(report.parent, os.W_OK):
        raise OutputError(f"the report '{report}' can't be written: its folder is missing or read-only; name another")
    found = find_inputs(inputs)
    require_images(found)
    with ServiceClient(service, connections=concurrency, key=os.environ.get("TANDEM_API_KEY")) as client:
        opened = open_model(model, **engine, batch_size=batch_size, tuning="throughput")  # as a bulk run opens it
        result = compare_roads(opened, client, found, limit=limit, concurrency=concurrency)
    for line in summarise(result):
        click.echo(one_line(line))
    if report is not None:
        try:
            report.write_bytes(to_json(result))
        except OSError as error:
            raise OutputError(
                f"the report '{report}' can't be written ({error.strerror}); name another file"
            ) from error
    ctx.exit(0 if result.in_parity else NOT_IN_PARITY)


def summarise(report: ParityReport) -> list[str]:
    """Return the report as text, a line for each fact, the verdict last."""
    share = report.top1_equal / report.images if report.images else 0.0
    equal = f"{report.bit_equal:,} bit-equal, largest difference of a score {report.max_difference:.3g}"
    lines = [
        report.model,
        f"  bulk     {report.bulk_engine}",
        f"  service  {report.service_engine}, {report.service}",
        f"{counted(report.images, 'image')} on both roads: {equal}, same top label {share:.2%}",
    ]
    if report.refused:
        lines.append(f"{report.refused:,} refused by both for the same reason")
    if report.unread:
        lines.append(f"{report.unread:,} could not be read, and were sent nowhere")
    lines += [f"differs: {each.path}: {each.what}" for each in report.listed]
    if (more := report.disagreements - len(report.listed)) > 0:
        lines.append(f"differs: {more:,} more")
    rule = (
        "same engine, version, device, instruction set and precision, so every bit must be equal"
        if report.must_be_bit_equal
        else f"{_what_differs(report)} differ, so a score may differ by {report.tolerance:.3g}"
    )
    verdict = "in parity" if report.in_parity else f"NOT in parity on {counted(report.disagreements, 'image')}"
    return [*lines, f"{verdict} ({rule})"]


def _what_differs(report: ParityReport) -> str:
    """Return what explains a difference: on one kind of GPU, the batch size alone can."""
    if replace(report.bulk_engine, batch_size=None).bit_equal_to(replace(report.service_engine, batch_size=None)):
        return "the sizes of the batches"
    return "engine or machine"
