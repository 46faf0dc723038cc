"""`tandem batch merge`."""

from __future__ import annotations

from pathlib import Path

import click

from commands.exit_codes import FAILED_IMAGES

_EXAMPLE = """\b
Example:
  tandem batch photos --model digits --output out --shard 1/2
  tandem batch photos --model digits --output out --shard 2/2
  tandem batch merge out
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.pass_context
def merge(ctx: click.Context, /, *, output: Path) -> None:
    """Join the shards in OUT into OUT/parts, byte-identical to the run of one process.

    First it proves that they are complete: every shard is there and done, all have the same plan, and every chunk has
    its part with the committed checksum.

    Exit codes: 0 joined, 1 not complete, 2 wrong usage, 3 joined with failed images.
    """
    from batch.review.merge import merge_shards
    from classifier.wording import one_line
    from commands.batch.run import summarise

    record = merge_shards(output)
    for line in summarise(record, output):
        click.echo(one_line(line))
    ctx.exit(FAILED_IMAGES if record.failed else 0)
