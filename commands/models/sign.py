"""`tandem models sign`."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import reference_argument
from registry.attaching import sign as sign_model
from registry.local import LocalRegistry


@click.command(
    epilog="\b\nExample:\n  openssl ecparam -name prime256v1 -genkey -noout -out key.pem\n"
    "  openssl ec -in key.pem -pubout -out key.pub\n  tandem models sign digits:3 --key key.pem\n"
    "  tandem models verify digits:3 --key key.pub"
)
@reference_argument
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Private key of an elliptic curve, as PEM.",
)
def sign(reference: str, key: Path) -> None:
    """Sign a model, local or remote. The signature travels with push and pull.

    TANDEM_KEY_PASSWORD holds the password of an encrypted key.
    """
    artifact = sign_model(reference, key, LocalRegistry.default())
    click.echo(f"{artifact.reference} is signed ({artifact.digest})")
