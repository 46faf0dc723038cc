"""`tandem models gc`."""

from __future__ import annotations

import click
from rich.filesize import decimal

from classifier.wording import counted
from registry.local import LocalRegistry
from registry.oci.garbage import collect, find_garbage


@click.command(epilog="\b\nExample:\n  tandem models gc\n  tandem models gc --yes")
@click.option("-y", "--yes", is_flag=True, help="Delete the files.")
def gc(yes: bool) -> None:
    """Show files that no model uses, such as those that a moved alias left behind; with --yes, delete them.

    Pulls can run meanwhile: while one does, files that no model uses are kept. Files younger than an hour are always
    kept, and unfinished downloads for a day.
    """
    layout = LocalRegistry.default().layout
    garbage = collect(layout) if yes else find_garbage(layout)
    for path in (*garbage.blobs, *garbage.partials):
        click.echo(path)
    if garbage.is_pulling:
        click.echo("a pull is running, so files that no model uses are kept: try again when it is done", err=True)
    files = counted(len(garbage.blobs) + len(garbage.partials), "file")
    click.echo(f"{files}, {decimal(garbage.size_bytes)}, {'deleted' if yes else 'to delete with --yes'}", err=True)
