"""Open the model that a service serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from classifier.errors import EngineUnavailable
from registry import open_model

if TYPE_CHECKING:
    from classifier.model import Model
    from registry import LocalRegistry


def open_served(registry: LocalRegistry, reference: str) -> Model:
    """Return the model, self-tested, with the engine that TANDEM_ENGINE, _DEVICE, _PRECISION and _THREADS request.

    Raises:
        ArtifactError: a file is damaged, or the golden set gives other scores.
        EngineUnavailable: the request is invalid, or this machine lacks the engine, device or precision.
    """
    threads = os.environ.get("TANDEM_THREADS") or None
    if threads is not None and (not threads.isdecimal() or int(threads) < 1):
        raise EngineUnavailable(f"TANDEM_THREADS is '{threads}', which is not a number of threads; set it to 1 or more")
    return open_model(
        reference,
        registry=registry,
        engine=os.environ.get("TANDEM_ENGINE") or "auto",
        device=os.environ.get("TANDEM_DEVICE") or "auto",
        precision=os.environ.get("TANDEM_PRECISION") or "auto",
        threads=None if threads is None else int(threads),
    )
