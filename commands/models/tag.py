"""`tandem models tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands.options import reference_argument
from registry.local import LocalRegistry
from registry.oci.references import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(
    epilog="\b\nExample:\n  tandem models tag digits:3 production\n  tandem models tag ghcr.io/acme/digits:3 production"
)
@reference_argument
@click.argument("aliases", metavar="ALIAS...", nargs=-1, required=True)
def tag(reference: str, aliases: Sequence[str]) -> None:
    """Put aliases on a version, and take them off the version that had them.

    A bare name, 'digits', means the version with the alias 'production', or else the highest version.
    """
    parsed = Reference.parse(reference)
    if parsed.host is None:
        artifact = LocalRegistry.default().tag(reference, *aliases)
    else:
        from registry.remote.models import RemoteModels  # HTTP and TLS, which few commands need

        artifact = RemoteModels(parsed).tag(parsed, *aliases)
    for alias in aliases:
        click.echo(f"{artifact.name}:{alias} is {artifact.reference} ({artifact.digest})")
