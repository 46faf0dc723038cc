"""`tandem models sign` and `attach`: what is added to a model without changing it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from classifier.errors import DataError
from classifier.types import from_json
from registry.companions import Referrer, list_referrers, read_referrers, send_referrers, store_referrers
from registry.local import LocalRegistry
from registry.oci.manifest import Manifest
from registry.oci.references import Reference
from registry.oci.referrers import MAX_FILE_BYTES, pack_referrer
from registry.signing import SIGNATURE, SIGNATURE_TYPE, sign_manifest

if TYPE_CHECKING:
    from registry.oci.artifact import Artifact
    from registry.remote.repository import RemoteRepository

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
"""As RFC 6838 has it, which registries hold a referrer's type to."""

_file = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="\b\nExample:\n  openssl ecparam -name prime256v1 -genkey -noout -out key.pem\n"
    "  openssl ec -in key.pem -pubout -out key.pub\n  tandem models sign digits:3 --key key.pem\n"
    "  tandem models verify digits:3 --key key.pub"
)
@click.argument("reference", metavar="REF")
@click.option("--key", metavar="FILE", type=_file, required=True, help="Private key of an elliptic curve, as PEM.")
def sign(reference: str, key: Path) -> None:
    """Sign a model, local or remote; the signature travels with push and pull.

    The password of an encrypted key is taken from TANDEM_KEY_PASSWORD.
    """
    artifact, repository = find_anywhere(reference)
    manifest = artifact.layout.read_blob(artifact.descriptor)
    signature = sign_manifest(manifest, key, password=os.environ.get("TANDEM_KEY_PASSWORD") or None)
    _add(artifact, repository, artifact_type=SIGNATURE_TYPE, title=SIGNATURE, data=signature)
    click.echo(f"{artifact.reference} is signed ({artifact.digest})")


@click.command(
    epilog="\b\nExample:\n  tandem models attach digits:3 sbom.spdx.json --type application/spdx+json\n"
    "  tandem models attach ghcr.io/acme/digits:3 parity.json --type application/vnd.tandem.parity.v1+json"
)
@click.argument("reference", metavar="REF")
@click.argument("file", metavar="FILE", type=_file)
@click.option("--type", "artifact_type", metavar="TYPE", required=True, help="Media type, as 'application/spdx+json'.")
def attach(reference: str, file: Path, artifact_type: str) -> None:
    """Attach a file to a model, such as an SBOM or a parity report; it travels with push and pull."""
    if not _MEDIA_TYPE.fullmatch(artifact_type):
        raise click.UsageError(f"'{artifact_type}' is no media type: write one as 'application/spdx+json'")
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror}): check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{file} has more than {MAX_FILE_BYTES >> 20} MiB: attach a smaller file")
    artifact, repository = find_anywhere(reference)
    _add(artifact, repository, artifact_type=artifact_type, title=file.name, data=data)
    click.echo(f"{file} is attached to {artifact.reference}")


def find_anywhere(reference: str) -> tuple[Artifact, RemoteRepository | None]:
    """Return the model where it is; a remote one without its weights, and with its repository."""
    parsed = Reference.parse(reference)
    if parsed.host is None:
        return LocalRegistry.default().resolve(reference), None
    from registry.remote.models import RemoteModels  # noqa: PLC0415  # HTTP and TLS, which few commands need

    models = RemoteModels(parsed)
    return models.resolve(parsed), models.repository


def referrers_anywhere(artifact: Artifact, repository: RemoteRepository | None) -> list[Referrer]:
    """Return the referrers of what `find_anywhere` gave; of remote ones the manifests alone."""
    if repository is None:
        return read_referrers(artifact.digest, LocalRegistry.default().layout)
    return list_referrers(artifact.digest, repository)


def _add(
    artifact: Artifact, repository: RemoteRepository | None, *, artifact_type: str, title: str, data: bytes
) -> None:
    descriptor, blobs = pack_referrer(artifact.descriptor, artifact_type=artifact_type, title=title, data=data)
    manifest = from_json(blobs[descriptor.digest], Manifest)
    referrer = Referrer(descriptor=descriptor, manifest=manifest, blobs=blobs)
    if repository is None:
        store_referrers([referrer], LocalRegistry.default().layout)
    else:
        send_referrers([referrer], artifact.digest, repository)
