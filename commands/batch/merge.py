"""`tandem batch merge`."""

from __future__ import annotations

from pathlib import Path

import click

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
    """Join the shards of a run in OUT into OUT/parts, byte-identical to the run of one process.

    It is proved first that they are complete: each shard is there and done, all have the same plan, and each chunk of
    it has its part with the checksum that was committed. Exit codes: 0 joined, 1 not complete, 3 joined with failed
    images.
    """
    from batch.review.merge import merge_shards  # noqa: PLC0415
    from commands.batch.run import FAILED_IMAGES, summarise  # noqa: PLC0415 # so that --help answers at once

    record = merge_shards(output)
    for line in summarise(record, output):
        click.echo(line)
    ctx.exit(FAILED_IMAGES if record.failed else 0)
