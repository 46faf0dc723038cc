"""`tandem batch report`."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLE = """\b
Example:
  tandem batch report out
  tandem batch report out --output scores.html --no-images
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it.  [default: OUT/report.html]",
)
@click.option("--images/--no-images", default=True, help="Show small copies of the images.  [default: --images]")
def report(*, output: Path, file: Path | None, images: bool) -> None:
    """Write what came out of the run in OUT, or of its shards, as one HTML page that needs nothing else.

    It counts what is committed, so it can be written while a run is under way, and says so. The images it shows, those
    that the model is least certain of, are read from where the run read them; one that has changed since is left out.

    Exit codes: 0 written, 1 could not be written, 2 usage.
    """
    from batch.review.report import write_report  # noqa: PLC0415
    from commands.logs import log_as_json_unless_on_a_terminal  # noqa: PLC0415 # so that --help answers at once

    log_as_json_unless_on_a_terminal()
    written = write_report(output, file, with_images=images)
    click.echo(f"written to {written}")
