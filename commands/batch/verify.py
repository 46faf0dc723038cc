"""`tandem batch verify`."""

from __future__ import annotations

from pathlib import Path

import click

from classifier.wording import counted, one_line
from commands.exit_codes import NOT_SOUND

MAX_LISTED = 1000

_EXAMPLE = """\b
Example:
  tandem batch verify out && rsync -a out/parts warehouse:/scores/
  tandem batch verify out --inputs
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--inputs", "with_inputs", is_flag=True, help="Also read each image again and compare its SHA-256.")
@click.pass_context
def verify(ctx: click.Context, /, *, output: Path, with_inputs: bool) -> None:
    """Prove that OUT, or its shards, has exactly one row for each image, and that nothing has changed since.

    It checks that every image of the plan has its row, in order; that every part has the committed checksum and rows;
    that there is no other part; and that run.json counts the same rows. Each problem is a line; nothing is repaired.

    Exit codes: 0 sound, 1 could not verify, 2 wrong usage, 7 not sound.
    """
    from batch.review.results import open_results
    from batch.review.verify import find_changed_inputs, find_problems
    from classifier.progress import show_progress
    from commands.logs import log_as_json_unless_on_a_terminal

    log_as_json_unless_on_a_terminal()
    results = open_results(output)
    record = results.record()
    problems = 0
    for find in (find_problems, find_changed_inputs) if with_inputs else (find_problems,):
        if problems:
            break  # an input is compared with its row, so the rows must be right first
        with show_progress(record.images) as advance:
            for problem in find(results, advance):
                problems += 1
                if problems <= MAX_LISTED:
                    click.echo(one_line(problem))
    if problems:
        more = f"; the first {MAX_LISTED:,} are listed" if problems > MAX_LISTED else ""
        click.echo(f"NOT sound: {counted(problems, 'problem')}{more}")
        ctx.exit(NOT_SOUND)
    parts = sum(len(each.commits) for each in results.folders)
    inputs = ", and no image has changed" if with_inputs else ""
    images = counted(record.images, "image")
    click.echo(f"sound: {images}, one row each, in {counted(parts, 'part')}, all checksums right{inputs}")
