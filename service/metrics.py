"""The service's Prometheus metrics. BentoML serves them at `/metrics`, summed over its workers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier.model import Model
    from service.exchange import Exchange

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_SCORED = "scored"


class Metrics:
    """Counts requests, images and executions."""

    def __init__(self, model: Model) -> None:
        self._of = _metrics()
        info = model.engine.info
        self._of.model.labels(
            model=model.identity,
            engine=info.name,
            version=info.version,
            device=info.device,
            instruction_set=info.instruction_set,
            precision=info.precision,
        ).set(1)

    def count(self, exchange: Exchange, elapsed_s: float) -> None:
        """Count a request that has been answered in `elapsed_s`, and its images."""
        of = self._of
        of.request(exchange.endpoint, exchange.status).inc()
        of.request_seconds(exchange.endpoint).observe(elapsed_s)
        for outcome in exchange.outcomes:
            of.image(outcome.reason or _SCORED).inc()
            if (scored := outcome.scored) and scored.cached is None:
                of.queue.observe(scored.queue_s)
                of.decode.observe(scored.decode_s)
                of.inference.observe(scored.inference_s)

    def count_execution(self, images: int, elapsed_s: float) -> None:
        """Count one run of the engine. May be called in any thread."""
        self._of.execution_images.observe(images)
        self._of.execution_seconds.observe(elapsed_s)


class _Metrics:
    """The metrics of this process, by their names."""

    def __init__(self) -> None:
        # Imported late: BentoML sets the folder that workers share metrics in after it has imported the service.
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415

        labels = ("model", "engine", "version", "device", "instruction_set", "precision")
        # `max`: all workers run the same model, so they report as one.
        self.model = Gauge("tandem_model_info", "1 for what runs.", labels, multiprocess_mode="max")
        requests = Counter("tandem_requests_total", "Answered requests.", ("endpoint", "status"))
        seconds = Histogram(
            "tandem_request_seconds", "From the head of a request to its answer.", ("endpoint",), buckets=_SECONDS
        )
        images = Counter("tandem_images_total", "Images, by what became of them.", ("outcome",))
        stages = Histogram("tandem_image_seconds", "Time of an image in a stage.", ("stage",), buckets=_SECONDS)
        # Looking up labels costs more than counting.
        self.request = cache(requests.labels)
        self.request_seconds = cache(seconds.labels)
        self.image = cache(images.labels)
        self.queue, self.decode, self.inference = (stages.labels(name) for name in ("queue", "decode", "inference"))
        self.execution_images = Histogram(
            "tandem_execution_images", "Images in one run of the engine.", buckets=_IMAGES
        )
        self.execution_seconds = Histogram(
            "tandem_execution_seconds", "Time of one run of the engine.", buckets=_SECONDS
        )


@cache  # Prometheus refuses a second metric of the same name
def _metrics() -> Any:
    return _Metrics()
