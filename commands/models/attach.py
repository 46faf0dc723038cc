"""`tandem models attach`."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import reference_argument
from registry.attaching import attach_file
from registry.local import LocalRegistry
from registry.oci.referrers import is_media_type


@click.command(
    epilog="\b\nExample:\n  tandem models attach digits:3 sbom.spdx.json --type application/spdx+json\n"
    "  tandem models attach ghcr.io/acme/digits:3 parity.json --type application/vnd.tandem.parity.v1+json"
)
@reference_argument
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--type", "artifact_type", metavar="TYPE", required=True, help="Media type, as 'application/spdx+json'.")
def attach(reference: str, file: Path, artifact_type: str) -> None:
    """Attach a file to a model, such as an SBOM or a parity report. It travels with push and pull."""
    if not is_media_type(artifact_type):
        raise click.UsageError(f"'{artifact_type}' is not a media type: write one as 'application/spdx+json'")
    artifact = attach_file(reference, file, LocalRegistry.default(), artifact_type=artifact_type)
    click.echo(f"{file} is attached to {artifact.reference}")
