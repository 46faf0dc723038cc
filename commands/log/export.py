"""`tandem log export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.log.options import digest_option, since_option, until_option, url_option

if TYPE_CHECKING:
    from datetime import datetime

    from service.log.url import LogAddress

_EXAMPLE = """\b
Example:
  tandem log export predictions.parquet --url sqlite:///log.db
  tandem log export january.parquet --since 2026-01-01 --until 2026-02-01
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT.parquet", type=click.Path(path_type=Path, dir_okay=False))
@url_option
@since_option
@until_option
@digest_option
@click.option("--force", is_flag=True, help="Overwrite OUT.parquet.")
def export(
    *,
    output: Path,
    address: LogAddress,
    since: datetime | None,
    until: datetime | None,
    digest: str | None,
    force: bool,
) -> None:
    """Write the log as a Parquet file: a row for each image, in the order of their times, with the feedback on it.

    The file appears when it is complete. Memory stays small for logs of any size.
    """
    try:
        from service.log.exporting import export_rows
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        from classifier.extras import install_extra

        raise click.ClickException(f"the package 'pyarrow' is not installed: {install_extra('batch')}") from error
    from classifier.progress import show_progress
    from classifier.wording import counted, one_line, utf8_text
    from service.log.database import reading
    from service.log.deleting import count_rows
    from service.log.selection import Selection

    selection = Selection(since=since, until=until, digest=digest)
    with reading(address) as connection, show_progress(count_rows(connection, selection), title="export") as advance:
        rows = export_rows(connection, selection, output, advance, force=force)
    click.echo(one_line(f"{counted(rows, 'image')} written to {utf8_text(output)}"))
