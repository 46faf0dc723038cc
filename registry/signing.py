"""Signatures of models by key pairs, in the format of the OpenSSF model-signing library.

A signature covers the manifest, which holds the digest of every file, and the model's name and version: an empty file
`reference/NAME:VERSION` is signed beside the manifest. Otherwise, whoever can write to a registry could pass one signed
model off as another. To check a signature without Tandem, put the manifest (`skopeo inspect --raw`) as `manifest.json`
and that empty file into an empty folder and the signature beside the folder, and run `model_signing verify key`.
"""

from __future__ import annotations

import base64
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from classifier.errors import InvalidReference, RegistryError, UntrustedArtifact
from classifier.extras import install_extra
from registry.oci.references import Reference, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.oci.artifact import Artifact
    from registry.oci.referrers import Referrer

SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "model.sig"
_SIGNED = "manifest.json"
_REFERENCE = "reference"
_INSTALL = install_extra("signing")

_log = logging.getLogger(__name__)


# The part of a Sigstore bundle that holds the names of the signed files.
class _Resource(msgspec.Struct):
    name: str


class _Predicate(msgspec.Struct):
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct):
    predicate: _Predicate


class _Envelope(msgspec.Struct):
    payload: str


class _Bundle(msgspec.Struct, rename="camel"):
    dsse_envelope: _Envelope


def trusted_key() -> Path | None:
    """Return the public key file `$TANDEM_TRUSTED_KEY`, which must have signed every model; None if it isn't set."""
    path = os.environ.get("TANDEM_TRUSTED_KEY")
    return Path(path) if path else None


def require_trust(artifact: Artifact, referrers: Iterable[Referrer]) -> None:
    """Check that the trusted key, if one is set, signed `artifact`.

    Raises:
        UntrustedArtifact: it didn't.
    """
    if (key := trusted_key()) is not None:
        check_signed(artifact, referrers, key)


def check_signed(artifact: Artifact, referrers: Iterable[Referrer], key: Path) -> None:
    """Check that the `referrers` sign `artifact`, under its name and versions, with the public key in the file `key`.

    A signature of an earlier release has no name and no version. It counts for the model's name in its config.

    Raises:
        UntrustedArtifact: they don't.
        RegistryError: the key can't be read, or model-signing isn't installed.
    """
    signatures = [
        referrer.blobs[layer.digest]
        for referrer in referrers
        if referrer.manifest.artifact_type == SIGNATURE_TYPE
        for layer in referrer.manifest.layers
    ]
    manifest = artifact.layout.read_blob(artifact.descriptor)
    signed = check_signature(artifact.reference, manifest, signatures, key)
    own = Reference.parse(artifact.name).name
    versions = {version_of(tag) for tag in artifact.tags} - {None}
    bound = [reference for reference in signed if reference is not None and _is_name(reference.name, own)]
    if bound and versions <= {reference.version for reference in bound}:
        return
    if None in signed and _is_name(artifact.config.name, own):
        _log.warning(
            "the signature of '%s' is from an earlier release and binds no version, so it may be an older model than "
            "the name says: sign it again with 'tandem models sign %s --key PRIVATE_KEY'",
            *(artifact.reference, artifact.reference),
        )
        return
    names = sorted({artifact.config.name if reference is None else str(reference) for reference in signed})
    then = _then_pull(Reference.parse(artifact.reference))
    raise UntrustedArtifact(
        f"'{artifact.reference}' is signed as {' and '.join(names)}, not under this name and version: if it is the "
        f"right model, sign it with 'tandem models sign {artifact.reference} --key PRIVATE_KEY'{then}"
    )


def _is_name(signed: str, own: str) -> bool:
    """Return whether a model signed as `signed` may be called `own`: a push puts folders before the name."""
    return own == signed or own.endswith(f"/{signed}")


def sign_manifest(
    manifest: bytes, key: Path, *, reference: Reference | None = None, password: str | None = None
) -> bytes:
    """Return the signature of `manifest` by the private key in the PEM file `key`.

    Args:
        manifest: of the model.
        key: the private key's file.
        reference: the name without a host, and the version, that the signature is for.
        password: decrypts the key.

    Raises:
        RegistryError: the key can't be read or isn't an elliptic-curve key, or model-signing isn't installed.
    """
    try:
        from model_signing import signing  # noqa: PLC0415 - takes a second, and comes with an extra
    except ModuleNotFoundError as error:
        raise RegistryError(f"signing needs the package '{error.name}': {_INSTALL}") from error
    with tempfile.TemporaryDirectory() as name:
        folder = _write(manifest, reference, Path(name))
        try:
            secret = None if password is None else password.encode()  # Annotated as str, but it needs bytes.
            config: Any = signing.Config()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_signer(private_key=key, password=secret)
            config.sign(folder, Path(name) / SIGNATURE)
        except OSError as error:
            raise RegistryError(
                f"the key {key} can't be read ({error.strerror}): name the private key's file"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise RegistryError(
                f"{key} is not a private key for signing, or needs another password in TANDEM_KEY_PASSWORD: 'openssl "
                "ecparam -name prime256v1 -genkey -noout' makes one"
            ) from error
        return (Path(name) / SIGNATURE).read_bytes()


def check_signature(reference: str, manifest: bytes, signatures: Iterable[bytes], key: Path) -> list[Reference | None]:
    """Return the names under which `signatures` sign `manifest` with the public key in the PEM file `key`.

    None stands for a signature of an earlier release, which has no name.

    Raises:
        UntrustedArtifact: none is; the message names `reference`.
        RegistryError: the key can't be read, or model-signing isn't installed.
    """
    signatures = list(signatures)
    if not signatures:
        then = _then_pull(Reference.parse(reference))
        raise UntrustedArtifact(
            f"'{reference}' is not signed, but TANDEM_TRUSTED_KEY or --key requires it: sign it with "
            f"'tandem models sign {reference} --key PRIVATE_KEY'{then}"
        )
    names = [_reference_in(signature) for signature in signatures]
    signed = [name for name, each in zip(names, signatures, strict=True) if _is_signed(manifest, name, each, key)]
    if not signed:
        raise UntrustedArtifact(
            f"'{reference}' has no signature by the key {key} among its {len(signatures)}: ask who signed it, or trust "
            "their public key instead"
        )
    return signed


def _then_pull(reference: Reference) -> str:
    # A remote model is signed in its registry; the signature reaches its copy by another pull.
    return "" if reference.host is None else ", then pull it"


def _reference_in(signature: bytes) -> Reference | None:
    """Return the reference that a signature names, if it names one; nothing has checked the signature yet."""
    try:
        envelope = msgspec.json.decode(signature, type=_Bundle).dsse_envelope
        resources = msgspec.json.decode(base64.b64decode(envelope.payload), type=_Statement).predicate.resources
        names = [each.name.removeprefix(f"{_REFERENCE}/") for each in resources if each.name != _SIGNED]
        return Reference.parse(names[0]) if len(names) == 1 else None
    except (ValueError, RecursionError, InvalidReference):
        return None


def _is_signed(manifest: bytes, reference: Reference | None, signature: bytes, key: Path) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from model_signing import verifying  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RegistryError(f"checking a signature needs the package '{error.name}': {_INSTALL}") from error
    try:
        verifier: Any = verifying.Config()  # type: ignore[no-untyped-call]
        verifier.use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise RegistryError(f"the key {key} can't be read ({error.strerror}): name the public key's file") from error
    except (ValueError, AttributeError) as error:
        raise RegistryError(f"{key} is not an elliptic-curve public key: 'openssl ec -pubout' makes one") from error
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / SIGNATURE
        path.write_bytes(signature)
        try:
            verifier.verify(_write(manifest, reference, Path(name)), path)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, InvalidSignature):
            return False  # Anyone can attach a signature, so it may hold anything.
        return True


def _write(manifest: bytes, reference: Reference | None, folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    (model / _SIGNED).write_bytes(manifest)
    if reference is not None:
        file = model / _REFERENCE / reference.tagged
        file.parent.mkdir(parents=True)
        file.touch()
    return model
