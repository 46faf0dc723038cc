"""`tandem log delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands.log.options import Time, url_option
from commands.options import yes_option

if TYPE_CHECKING:
    from datetime import datetime

    from service.log.url import LogAddress

_EXAMPLE = """\b
Example:
  tandem log delete --before 2026-01-01
  tandem log delete --request-id 0198f2c0a4e87d1b9c3f5a7e2b6d8f01 --yes
"""


@click.command(epilog=_EXAMPLE)
@url_option
@click.option("--before", metavar="DATE", type=Time(), help="Entries before this day or time.")
@click.option("--request-id", metavar="ID", help="Entries of this request.")
@click.option("--client", metavar="NAME", help="Entries of this client, by the name of its API key.")
@yes_option
def delete(
    *, address: LogAddress, before: datetime | None, request_id: str | None, client: str | None, yes: bool
) -> None:
    """Erase the entries that fulfil all of the conditions, with the feedback on them.

    SQLite overwrites what is erased; PostgreSQL does so when it vacuums. Copies and backups are your own to erase.
    """
    if before is None and not request_id and not client:
        raise click.UsageError("give --before, --request-id or --client")
    from classifier.progress import show_progress
    from classifier.wording import counted
    from service.log.database import editing
    from service.log.deleting import count_rows, delete_rows
    from service.log.selection import Selection

    selection = Selection(until=before, request_id=request_id or None, client=client or None)
    with editing(address) as database:
        with database.begin() as connection:
            images = count_rows(connection, selection)
        if not yes:
            click.confirm(f"Erase {counted(images, 'image')} from the prediction log, {address}?", abort=True)
        with show_progress(images, title="delete") as advance:
            images = delete_rows(database, selection, advance)
    click.echo(f"{counted(images, 'image')} erased")
