"""From a reference to a model that has proved itself on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.fetching import fetch_model
from registry.local import LocalRegistry

if TYPE_CHECKING:
    from classifier.model import Model


def open_model(
    reference: str | None,
    *,
    registry: LocalRegistry | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    trust: bool = True,
) -> Model:
    """Return the model that `reference` names, verified, loaded on its device and self-tested.

    Args:
        reference: as in `fetch_model`, so that a remote one is fetched once; None means the only model there is.
        registry: where to look, and where copies are kept; the default registry if it isn't given.
        engine: what runs it, `onnxruntime`; `auto` takes the fastest that the artifact allows, here and below.
        device: `cpu`, `cuda`, `cuda:1`.
        precision: `fp32`.
        threads: of the CPU; None for as many as there are cores.
        batch_size: the one size that each execution is padded to, where the device needs one.
        trust: refuse what the key in `$TANDEM_TRUSTED_KEY` didn't sign.

    Raises:
        RegistryError: the reference can't be resolved, or not be fetched.
        ArtifactError: a file is damaged, or the golden set gives other scores.
        EngineUnavailable: what was asked for can't be had on this machine.
    """
    # Here, not above: an engine takes a second to import, and most commands of the registry need none.
    from classifier.model import Model  # noqa: PLC0415
    from classifier.selftest import self_test  # noqa: PLC0415

    artifact = fetch_model(reference, registry or LocalRegistry.default(), trust=trust)
    model = Model.open(
        artifact, engine=engine, device=device, precision=precision, threads=threads, batch_size=batch_size
    )
    self_test(model)
    return model
