"""`tandem models rm`."""

from __future__ import annotations

import sys

import click
from rich.filesize import decimal

from commands.options import reference_argument, yes_option
from registry.local import LocalRegistry


@click.command(epilog="\b\nExample:\n  tandem models rm digits:2\n  tandem models rm digits:candidate")
@reference_argument
@yes_option
@click.option("--force", is_flag=True, help="Remove a version together with its aliases.")
def rm(reference: str, yes: bool, force: bool) -> None:
    """Remove a version with its files, or an alias alone.

    Files that other versions use are kept. The number of a version is never used again.
    """
    registry = LocalRegistry.default()
    artifact = registry.find(reference)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {reference} ({artifact.digest})?", abort=True)
    removed = registry.remove(reference, force=force)
    freed = f", {decimal(removed.freed_bytes)} freed" if removed.freed_bytes else ""
    click.echo(f"removed {', '.join(removed.references)}{freed}")
