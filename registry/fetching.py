"""From any reference to a model that is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.companions import read_referrers, require_trust
from registry.oci.references import Reference
from registry.signing import trusted_key

if TYPE_CHECKING:
    from registry.local import LocalRegistry
    from registry.oci.artifact import Artifact


def fetch_model(reference: str | None, registry: LocalRegistry, *, trust: bool = True) -> Artifact:
    """Return the model that `reference` names, local or remote; a remote one is fetched into `registry` once.

    A version and a digest never change, so a copy answers for them without the network. What a remote alias or a bare
    name stands for is asked each time.

    Args:
        reference: as in `LocalRegistry.resolve`, or remote.
        registry: where models and copies are.
        trust: refuse what the key in `$TANDEM_TRUSTED_KEY` didn't sign.

    Raises:
        RegistryError: it can't be resolved, or not be fetched.
        UntrustedArtifact: it isn't signed by that key.
        DamagedArtifact: it is not what its digest says.
    """
    parsed = None if reference is None else Reference.parse(reference)
    if parsed is None or parsed.host is None:
        return _trusted(registry.resolve(reference), registry, trust=trust)
    copy = _find_copy(parsed, registry)
    if copy is not None:
        return _trusted(copy, registry, trust=trust)
    # Here, not above: most commands name no remote model, and need neither HTTP nor TLS.
    from registry.transfer import pull  # noqa: PLC0415

    return pull(parsed, registry, check=False)


def _trusted(artifact: Artifact, registry: LocalRegistry, *, trust: bool) -> Artifact:
    if trust and trusted_key() is not None:
        require_trust(artifact, read_referrers(artifact.digest, registry.layout))
    return artifact


def _find_copy(reference: Reference, registry: LocalRegistry) -> Artifact | None:
    """Return the copy that answers for `reference` for good, if it is here."""
    for model in registry.models():
        named = (reference.digest is not None and model.digest == reference.digest) or (
            reference.digest is None and reference.version is not None and reference.tag in model.tags
        )
        if named and model.name == reference.repository:
            blobs = (*model.manifest.layers, model.manifest.config)
            return model if all(map(registry.layout.has_blob, blobs)) else None
    return None
