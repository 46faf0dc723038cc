"""`tandem models pull`."""

from __future__ import annotations

import click

from commands.options import reference_argument
from registry.local import LocalRegistry
from registry.oci.references import Reference


@click.command(
    epilog="\b\nExample:\n  tandem models pull ghcr.io/acme/digits:3\n"
    "  tandem batch images --model ghcr.io/acme/digits:3 --output out"
)
@reference_argument
def pull(reference: str) -> None:
    """Pull a model from a remote registry, and check each file against its digest.

    The copy keeps its full name and answers to it without the network from then on. Files that are already here are
    checked, and fetched again only if they are damaged.
    """
    from registry.pulling import pull as pull_model  # HTTP and TLS, which few commands need

    parsed = Reference.parse(reference)
    if parsed.host is None:
        raise click.UsageError(f"'{reference}' names no registry; write its host first, 'ghcr.io/acme/{reference}'")
    artifact = pull_model(parsed, LocalRegistry.default())
    click.echo(f"{parsed} is {artifact.digest}")
