"""`tandem keys`: API keys of the online service."""

from __future__ import annotations

import click

_EXAMPLE = """\b
Example:
  tandem keys new shop >> keys
  TANDEM_API_KEYS=keys bentoml serve
"""


@click.group(epilog=_EXAMPLE)
def keys() -> None:
    """Make API keys for the online service."""


@keys.command(epilog=_EXAMPLE)
@click.argument("name")
def new(name: str) -> None:
    """Make a key for the client NAME.

    Prints its line for the key file to standard output, and the key to standard error. The line holds only a hash, so
    the key is not shown again. The service's log calls the client NAME.
    """
    from service.access.keys import make_key

    try:
        key, line = make_key(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    click.echo(f"The key of '{name}', which is shown only now: {key}", err=True)
    click.echo(line)
