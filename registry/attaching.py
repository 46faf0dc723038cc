"""Attach: add a signature or another file to a model, local or remote, without changing the model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from classifier.errors import DataError, ModelNotFound, UntrustedArtifact
from registry.oci.layout import Layout
from registry.oci.references import Reference
from registry.oci.referrers import MAX_FILE_BYTES, pack_referrer, read_referrers, store_referrers
from registry.opening import find_model
from registry.signing import SIGNATURE, SIGNATURE_TYPE, check_signed, sign_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from registry.local import LocalRegistry
    from registry.oci.artifact import Artifact
    from registry.oci.referrers import Referrer
    from registry.remote.repository import RemoteRepository


def attach(artifact: Artifact, data: bytes, *, artifact_type: str, title: str) -> None:
    """Attach a file with the contents `data` to a model, in the registry that holds the model.

    Args:
        artifact: as `find_model` returns it.
        data: at most `MAX_FILE_BYTES`.
        artifact_type: the media type.
        title: the file's name.
    """
    referrer = pack_referrer(artifact.descriptor, artifact_type=artifact_type, title=title, data=data)
    if isinstance(artifact.layout, Layout):
        store_referrers([referrer], artifact.layout)
    else:
        from registry.remote.referrers import send_referrers  # noqa: PLC0415

        send_referrers([referrer], artifact.digest, _repository(artifact))


def attach_file(reference: str, file: Path, registry: LocalRegistry, *, artifact_type: str) -> Artifact:
    """Attach `file` to the model that `reference` names, and return the model.

    Raises:
        DataError: the file can't be read, or is too large.
        RegistryError: the reference can't be resolved, or the registry can't be written.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror}): check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{file} has more than {MAX_FILE_BYTES >> 20} MiB: attach a smaller file")
    artifact = find_model(reference, registry)
    attach(artifact, data, artifact_type=artifact_type, title=file.name)
    return artifact


def attach_to_image(image: str, data: bytes, *, artifact_type: str, title: str) -> None:
    """Attach a file with the contents `data` to a container image in its registry.

    Args:
        image: the image by digest, `ghcr.io/acme/digits-service@sha256:…`.
        data: at most `MAX_FILE_BYTES`.
        artifact_type: the media type.
        title: the file's name.

    Raises:
        RegistryError: the registry has no such image, or can't be written.
    """
    from registry.remote.referrers import send_referrers  # noqa: PLC0415
    from registry.remote.repository import RemoteRepository  # noqa: PLC0415

    reference = Reference.parse(image)
    assert reference.host is not None, "only a pushed image has a digest"
    assert reference.digest is not None, "only a digest names one image"
    repository = RemoteRepository(reference.host, reference.name)
    found = repository.find_manifest(reference.digest)
    if found is None:
        raise ModelNotFound(f"the image '{image}' is not in its registry: push it again")
    referrer = pack_referrer(found[0], artifact_type=artifact_type, title=title, data=data)
    send_referrers([referrer], reference.digest, repository)


def sign(reference: str, key: Path, registry: LocalRegistry) -> Artifact:
    """Sign the model that `reference` names with the private key in the PEM file `key`, and return the model.

    The signature is for its name and its version, the one in `reference` if it has several. `$TANDEM_KEY_PASSWORD`
    decrypts the key.

    Raises:
        RegistryError: the key can't be read or used, the reference can't be resolved, or the registry can't be written.
    """
    artifact = find_model(reference, registry)
    manifest = artifact.layout.read_blob(artifact.descriptor)
    version = Reference.parse(reference).version or artifact.version
    name = Reference(name=Reference.parse(artifact.name).name, tag=None if version is None else str(version))
    signature = sign_manifest(manifest, key, reference=name, password=os.environ.get("TANDEM_KEY_PASSWORD") or None)
    attach(artifact, signature, artifact_type=SIGNATURE_TYPE, title=SIGNATURE)
    return artifact


def referrers_of(artifact: Artifact) -> list[Referrer]:
    """Return what is attached to a model; for a remote one, the manifests without their files."""
    if isinstance(artifact.layout, Layout):
        return read_referrers(artifact.digest, artifact.layout)
    from registry.remote.referrers import list_referrers  # noqa: PLC0415

    return list_referrers(artifact.digest, _repository(artifact))


def signature_problem(artifact: Artifact, key: Path) -> str | None:
    """Return why a local model isn't signed by the public key in the PEM file `key`; None if it is.

    Raises:
        RegistryError: the key can't be read, or model-signing isn't installed.
    """
    assert isinstance(artifact.layout, Layout), "only local models are verified"
    try:
        check_signed(artifact, read_referrers(artifact.digest, artifact.layout), key)
    except UntrustedArtifact as error:
        return str(error)
    return None


def _repository(artifact: Artifact) -> RemoteRepository:
    # Imported late: HTTP and TLS, which few commands need.
    from registry.remote.models import RemoteBlobs  # noqa: PLC0415

    assert isinstance(artifact.layout, RemoteBlobs), "an artifact is on disk or in a remote registry"
    return artifact.layout.repository
