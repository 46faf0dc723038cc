"""Signatures of models by key pairs, in the format of the OpenSSF model-signing library.

The signature covers the manifest, which holds the digest of every file. To check one without Tandem, put the manifest
(`skopeo inspect --raw`) as `manifest.json` into an empty folder and the signature beside that folder, and run
`model_signing verify key`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.errors import RegistryError, UntrustedArtifact
from classifier.extras import install_extra
from registry.oci.references import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.oci.artifact import Artifact
    from registry.oci.referrers import Referrer

SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "model.sig"
_SIGNED = "manifest.json"
_INSTALL = install_extra("signing")


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
    """Check that one of the `referrers` is a signature of `artifact` by the public key in the PEM file `key`.

    Raises:
        UntrustedArtifact: none is.
        RegistryError: the key can't be read, or model-signing isn't installed.
    """
    signatures = [
        referrer.blobs[layer.digest]
        for referrer in referrers
        if referrer.manifest.artifact_type == SIGNATURE_TYPE
        for layer in referrer.manifest.layers
    ]
    check_signature(artifact.reference, artifact.layout.read_blob(artifact.descriptor), signatures, key)


def sign_manifest(manifest: bytes, key: Path, *, password: str | None = None) -> bytes:
    """Return the signature of `manifest` by the private key in the PEM file `key`.

    Raises:
        RegistryError: the key can't be read or isn't an elliptic-curve key, or model-signing isn't installed.
    """
    try:
        from model_signing import signing  # noqa: PLC0415 - takes a second, and comes with an extra
    except ModuleNotFoundError as error:
        raise RegistryError(f"signing needs the package '{error.name}': {_INSTALL}") from error
    with tempfile.TemporaryDirectory() as name:
        folder = _write(manifest, Path(name))
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


def check_signature(reference: str, manifest: bytes, signatures: Iterable[bytes], key: Path) -> None:
    """Check that one of `signatures` is a signature of `manifest` by the public key in the PEM file `key`.

    Raises:
        UntrustedArtifact: none is; the message names `reference`.
        RegistryError: the key can't be read, or model-signing isn't installed.
    """
    signatures = list(signatures)
    if not signatures:
        # A remote model is signed in its registry; the signature reaches its copy by another pull.
        then = "" if Reference.parse(reference).host is None else ", then pull it"
        raise UntrustedArtifact(
            f"'{reference}' is not signed, but TANDEM_TRUSTED_KEY or --key requires it: sign it with "
            f"'tandem models sign {reference} --key PRIVATE_KEY'{then}"
        )
    if not any(_is_signed(manifest, signature, key) for signature in signatures):
        raise UntrustedArtifact(
            f"'{reference}' has no signature by the key {key} among its {len(signatures)}: ask who signed it, or trust "
            "their public key instead"
        )


def _is_signed(manifest: bytes, signature: bytes, key: Path) -> bool:
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
            verifier.verify(_write(manifest, Path(name)), path)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, InvalidSignature):
            return False  # Anyone can attach a signature, so it may hold anything.
        return True


def _write(manifest: bytes, folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / _SIGNED).write_bytes(manifest)
    return folder / "model"
