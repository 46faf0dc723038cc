"""`tandem keys`: API keys of the online service."""

from __future__ import annotations

import click

_EXAMPLE = """\b
Example:
  tandem keys new shop >> keys
  TANDEM_API_KEYS=keys bentoml serve
"""


@click.group()
def keys() -> None:
    """Make API keys for the online service."""


@keys.command(epilog=_EXAMPLE)
@click.argument("name")
def new(name: str) -> None:
    """Make a key for the client NAME: print its line for the key file, and the key itself to standard error.

    The line holds a hash of the key, so the key is shown this once. The log of the service names the client.
    """
    from service.access.keys import make_key

    try:
        key, line = make_key(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    click.echo(f"The key of '{name}', which is shown only now: {key}", err=True)
    click.echo(line)
