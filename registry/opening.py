"""From a reference to a model: find it, fetch it to this machine, or open and self-test it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from classifier.errors import EngineUnavailable, SelfTestFailed
from registry.local import LocalRegistry
from registry.oci.references import Reference
from registry.oci.referrers import read_referrers
from registry.signing import require_trust, trusted_key

if TYPE_CHECKING:
    from classifier.engines import Tuning
    from classifier.model import Model
    from registry.oci.artifact import Artifact

log = logging.getLogger(__name__)


def find_model(reference: str, registry: LocalRegistry) -> Artifact:
    """Return the model that `reference` names without copying it; the weights of a remote one are not read.

    Raises:
        RegistryError: the reference can't be resolved.
    """
    parsed = Reference.parse(reference)
    if parsed.host is None:
        return registry.resolve(reference)
    # Imported late: HTTP and TLS, which few commands need.
    from registry.remote.models import RemoteModels  # noqa: PLC0415

    return RemoteModels(parsed).resolve(parsed)


def fetch_model(reference: str | None, registry: LocalRegistry, *, trust: bool = True) -> Artifact:
    """Return the model that `reference` names, local or remote; a remote one is pulled into `registry` once.

    Versions and digests never change, so a copy answers for them without the network. A remote alias or bare name is
    looked up each time.

    Args:
        reference: as in `LocalRegistry.resolve`, or remote.
        registry: holds models and copies.
        trust: refuse a model that the key in `$TANDEM_TRUSTED_KEY` didn't sign.

    Raises:
        RegistryError: the model can't be found or pulled.
        UntrustedArtifact: the trusted key didn't sign it.
        DamagedArtifact: a file doesn't match its digest.
    """
    parsed = None if reference is None else Reference.parse(reference)
    if parsed is None or parsed.host is None:
        artifact = registry.resolve(reference)
    elif (copy := _find_copy(parsed, registry)) is not None:
        artifact = copy
    else:
        # Imported late: HTTP and TLS, which few commands need.
        from registry.pulling import pull  # noqa: PLC0415

        return pull(parsed, registry, check=False)
    if trust and trusted_key() is not None:
        require_trust(artifact, read_referrers(artifact.digest, registry.layout))
    return artifact


def open_model(
    reference: str | None,
    *,
    registry: LocalRegistry | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    tuning: Tuning = "latency",
    trust: bool = True,
) -> Model:
    """Return the model that `reference` names, verified, loaded on its device and self-tested.

    If `auto` chose a precision that fails the self-test on this machine, the model runs in fp32 instead. The log says
    so, and so does `engine.info`, which goes with every answer.

    Args:
        reference: as in `fetch_model`; None means the only model.
        registry: holds models and copies; by default `LocalRegistry.default()`.
        engine: `onnxruntime` or `openvino`. Here and below, `auto` takes the fastest that the artifact allows and this
            machine has.
        device: `cpu`, `cuda`, `cuda:1`.
        precision: `fp32`, `bf16`, `fp16`, `int8`.
        threads: CPU threads; None for as many as this process may keep busy.
        batch_size: images per execution; None for the engine's own choice.
        tuning: `latency` for the fastest single answer, as in a service; `throughput` for the most images per second.
        trust: refuse a model that the key in `$TANDEM_TRUSTED_KEY` didn't sign.

    Raises:
        RegistryError: the model can't be found or pulled.
        ArtifactError: a file is damaged, or the golden set gives other scores.
        EngineError: this machine lacks what was asked for, or its device lacks the memory.
    """
    # Imported late: an engine takes a second, and most commands of the registry need none.
    from classifier.model import Model  # noqa: PLC0415
    from classifier.selftest import self_test  # noqa: PLC0415

    artifact = fetch_model(reference, registry or LocalRegistry.default(), trust=trust)

    def open_in(precision: str) -> Model:
        return Model.open(
            artifact,
            engine=engine,
            device=device,
            precision=precision,
            threads=threads,
            batch_size=batch_size,
            tuning=tuning,
        )

    model = open_in(precision)
    try:
        self_test(model)
    except SelfTestFailed as failed:
        # A precision that the user chose is never replaced, and nothing can replace fp32.
        if precision != "auto" or model.engine.info.precision == "fp32":
            raise
        log.warning("%s; it runs in fp32 instead", failed)
        try:
            model = open_in("fp32")
        except EngineUnavailable:  # The chosen engine runs this model in no other precision.
            raise failed from None
        self_test(model)
    return model


def _find_copy(reference: Reference, registry: LocalRegistry) -> Artifact | None:
    """Return the whole copy of the version or digest that `reference` names; None if there isn't one."""
    for model in registry.models():
        named = (reference.digest is not None and model.digest == reference.digest) or (
            reference.digest is None and reference.version is not None and reference.tag in model.tags
        )
        if named and model.name == reference.repository:
            return model if all(map(registry.layout.has_blob, model.manifest.blobs)) else None
    return None
