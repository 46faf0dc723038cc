"""`tandem batch verify`."""

from __future__ import annotations

from pathlib import Path

import click

from classifier.wording import counted

NOT_SOUND = 7
"""Exit code where an output was looked at, and is not what a run that is done leaves."""

MAX_LISTED = 1000

_EXAMPLE = """\b
Example:
  tandem batch verify out && rsync -a out/parts warehouse:/scores/
  tandem batch verify out --inputs
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--inputs", "with_inputs", is_flag=True, help="Also read each image again, and compare size and SHA-256.")
@click.pass_context
def verify(ctx: click.Context, /, *, output: Path, with_inputs: bool) -> None:
    """Prove that OUT, or its shards, has exactly one row for each image, and that nothing has changed since.

    Each image of the plan has its row, in order; each part has the checksum and the rows that were committed; there is
    no other part; and the counts of run.json are those of the rows. What is wrong is a line each; nothing is repaired.

    Exit codes: 0 all is proved, 1 can't be verified, 2 usage, 7 something is wrong.
    """
    from batch.review.results import open_results  # noqa: PLC0415
    from batch.review.verify import find_changed_inputs, find_problems  # noqa: PLC0415
    from classifier.progress import show_progress  # noqa: PLC0415
    from commands.logs import log_as_json_unless_on_a_terminal  # noqa: PLC0415 # so that --help answers at once

    log_as_json_unless_on_a_terminal()
    results = open_results(output)
    record = results.record()
    problems = 0
    for find in (find_problems, find_changed_inputs) if with_inputs else (find_problems,):
        if problems:
            break  # an input is compared with its row, which has to be right first
        with show_progress(record.images) as advance:
            for problem in find(results, advance):
                problems += 1
                if problems <= MAX_LISTED:
                    click.echo(problem)
    if problems:
        more = f"; the first {MAX_LISTED:,} are listed" if problems > MAX_LISTED else ""
        click.echo(f"NOT sound: {counted(problems, 'problem')}{more}")
        ctx.exit(NOT_SOUND)
    parts = sum(len(each.commits) for each in results.folders)
    inputs = ", each image still the one that was classified" if with_inputs else ""
    images = counted(record.images, "image")
    click.echo(f"sound: {images}, one row each, in {counted(parts, 'part')}, all checksums right{inputs}")
