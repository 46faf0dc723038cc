"""From a reference to a model that has proved itself on this machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from classifier.errors import EngineUnavailable, SelfTestFailed
from registry.fetching import fetch_model
from registry.local import LocalRegistry

if TYPE_CHECKING:
    from classifier.engines import Tuning
    from classifier.model import Model

log = logging.getLogger(__name__)


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

    Where `auto` chose a precision that then fails the self-test on this machine, the model runs in fp32 instead: the
    log says so, and `engine.info`, which goes with every answer.

    Args:
        reference: as in `fetch_model`, so that a remote one is fetched once; None means the only model there is.
        registry: where to look, and where copies are kept; the default registry if it isn't given.
        engine: what runs it, `onnxruntime` or `openvino`; `auto` takes the fastest that the artifact allows and this
            machine has, here and below.
        device: `cpu`, `cuda`, `cuda:1`.
        precision: `fp32`, `bf16`, `fp16`, `int8`.
        threads: of the CPU; None for as many as this process may keep busy.
        batch_size: images per execution; None for the engine's own choice.
        tuning: `latency` for the soonest answer, as in a service; `throughput` for the most images in a second.
        trust: refuse what the key in `$TANDEM_TRUSTED_KEY` didn't sign.

    Raises:
        RegistryError: the reference can't be resolved, or not be fetched.
        ArtifactError: a file is damaged, or the golden set gives other scores.
        EngineError: what was asked for can't be had on this machine, or its memory does not hold it.
    """
    # Here, not above: an engine takes a second to import, and most commands of the registry need none.
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
        # What was asked for is had or refused, and nothing stands in for fp32.
        if precision != "auto" or model.engine.info.precision == "fp32":
            raise
        log.warning("%s; it runs in fp32 instead", failed)
        try:
            model = open_in("fp32")
        except EngineUnavailable:  # The engine that was asked for runs this model in no other precision.
            raise failed from None
        self_test(model)
    return model
