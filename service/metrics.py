"""The service's own Prometheus metric, beside BentoML's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier.model import Model


def publish_model_info(model: Model) -> None:
    """Set `tandem_model_info` to 1, labelled with the running model, engine, device and precision."""
    info = model.engine.info
    _model_info().labels(
        model=model.identity,
        engine=info.name,
        version=info.version,
        device=info.device,
        instruction_set=info.instruction_set,
        precision=info.precision,
    ).set(1)


@cache  # Prometheus refuses a second gauge of the same name
def _model_info() -> Any:
    # Imported late: BentoML sets the folder that workers share metrics in after it has imported the service.
    from prometheus_client import Gauge  # noqa: PLC0415

    labels = ("model", "engine", "version", "device", "instruction_set", "precision")
    # `max`: all workers run the same model, so they report as one.
    return Gauge("tandem_model_info", "1 for what runs.", labels, multiprocess_mode="max")
