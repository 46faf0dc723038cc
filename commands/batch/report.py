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
    help="File to write.  [default: OUT/report.html]",
)
@click.option("--images/--no-images", default=True, help="Show small copies of the images.  [default: --images]")
def report(*, output: Path, file: Path | None, images: bool) -> None:
    """Write the results of the run in OUT, or of its shards, as one self-contained HTML page.

    It covers the committed images, so you can write it during a run; the page then says that the run is unfinished. It
    shows the images that the model is least certain of, read from the run's inputs; images that have changed since are
    left out.

    Exit codes: 0 written, 1 could not be written, 2 wrong usage.
    """
    from batch.review.report import write_report
    from classifier.wording import one_line, utf8_text
    from commands.logs import log_as_json_unless_on_a_terminal

    log_as_json_unless_on_a_terminal()
    written = write_report(output, file, with_images=images)
    click.echo(one_line(f"written to {utf8_text(written)}"))
