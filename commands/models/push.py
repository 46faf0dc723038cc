"""`tandem models push`."""

from __future__ import annotations

import click
from rich.filesize import decimal

from classifier.wording import counted
from commands.options import reference_argument
from registry.local import LocalRegistry


@click.command(
    epilog="\b\nExample:\n  tandem models push digits:3 ghcr.io/acme/digits\n"
    "  tandem models push digits:3 localhost:5000/acme/digits:production"
)
@reference_argument
@click.argument("target", metavar="TARGET")
def push(reference: str, target: str) -> None:
    """Push a model to a remote registry, under its version or under the tag of TARGET.

    A version in the registry is never overwritten; an alias moves. Files that the registry already has are not sent
    again. Credentials are those of 'docker login', or TANDEM_REGISTRY_USERNAME and TANDEM_REGISTRY_PASSWORD.
    """
    from registry.pushing import push as push_model  # HTTP and TLS, which few commands need

    pushed = push_model(reference, target, LocalRegistry.default())
    files = f"{counted(len(pushed.sent), 'file')} sent, {decimal(sum(pushed.sent))}"
    mounted = f", {pushed.mounted} taken over from another repository" if pushed.mounted else ""
    referrers = f", {counted(pushed.referrers, 'referrer')} added" if pushed.referrers else ""
    click.echo(f"{pushed.reference} is {pushed.digest}")
    click.echo(f"{files}{mounted}{referrers}", err=True)
