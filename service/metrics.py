"""The service's Prometheus metrics. BentoML serves them at `/metrics`, summed over its workers.

`docs/monitoring.md` explains each. What happens in a request is counted when it ends. Other parts of the service count
in plain numbers: `service.sampling` copies those.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, get_args

from service.cache import Level

if TYPE_CHECKING:
    from classifier.model import Model
    from service.exchange import Exchange

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
"""From a tiny model's decoding to `limits.BATCH_WITHIN_S`."""
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_STAGES = ("queue", "decode", "inference")
_SCORED = "scored"


class Metrics:
    """Counts requests, images and executions, for one model."""

    def __init__(self, model: Model) -> None:
        self.known = _known()
        self.known.started.inc()
        info = model.engine.info
        self.known.model.labels(
            model=model.identity,
            engine=info.name,
            version=info.version,
            device=info.device,
            instruction_set=info.instruction_set,
            precision=info.precision,
        ).set(1)

    def count(self, exchange: Exchange, elapsed_s: float) -> None:
        """Count a request that has been answered in `elapsed_s`, and its images."""
        known = self.known
        known.request(exchange.endpoint, exchange.status, exchange.reason or "").inc()
        known.request_seconds(exchange.endpoint, exchange.status // 100).observe(elapsed_s)
        for outcome in exchange.outcomes:
            # One that was scored counts as that, even if its request failed because of another.
            known.image((outcome.reason or "internal") if outcome.scored is None else _SCORED).inc()
            # One from a cache was in no stage.
            if (scored := outcome.scored) is not None and scored.inferred_from is not None:
                known.queue.observe(scored.queue_s)
                known.decode.observe(scored.decode_s)
                known.inference.observe(scored.inference_s)

    def count_execution(self, images: int, elapsed_s: float) -> None:
        """Count one run of the engine. May be called in any thread."""
        self.known.execution_images.observe(images)
        self.known.execution_seconds.observe(elapsed_s)


class Known:
    """All metrics of this process. What has no labels, or few, is there from the start, so that its rate is 0."""

    def __init__(self) -> None:
        # Imported late: BentoML sets the folder that workers share metrics in after it has imported the service.
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415

        def gauge(name: str, text: str) -> Any:
            return Gauge(name, text, multiprocess_mode="livesum")

        labels = ("model", "engine", "version", "device", "instruction_set", "precision")
        # `livemax`: all workers run the same model, so they report as one.
        self.model = Gauge("tandem_model_info", "1 for what runs.", labels, multiprocess_mode="livemax")
        self.started = Counter("tandem_worker_starts_total", "Workers that have opened the model.")
        self.in_flight = gauge("tandem_requests_in_flight", "Requests whose images wait or are being classified.")
        self.waiting = gauge("tandem_images_waiting", "Images that wait for a thread or for the engine.")
        requests = Counter("tandem_requests_total", "Answered requests.", ("endpoint", "status", "reason"))
        seconds = Histogram(
            "tandem_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ("endpoint", "status"),
            buckets=_SECONDS,
        )
        images = Counter("tandem_images_total", "Images, by what became of them.", ("outcome",))
        stages = Histogram("tandem_image_stage_seconds", "Time of an image in a stage.", ("stage",), buckets=_SECONDS)
        # Looking up labels costs more than counting. Statuses and reasons are constants of the code: there are few.
        self.request = cache(requests.labels)
        self.request_seconds = cache(lambda endpoint, hundreds: seconds.labels(endpoint, f"{hundreds}xx"))
        self.image = cache(images.labels)
        self.image(_SCORED)
        self.request("/classify", HTTPStatus.OK.value, "")
        self.request_seconds("/classify", 2)
        self.queue, self.decode, self.inference = (stages.labels(name) for name in _STAGES)
        self.execution_images = Histogram("tandem_execution_images", "Images in a run of the engine.", buckets=_IMAGES)
        self.execution_seconds = Histogram(
            "tandem_execution_duration_seconds", "Time of a run of the engine.", buckets=_SECONDS
        )
        self._make_cache_s(Counter, gauge)
        self._make_log_s(Counter, gauge)

    def _make_cache_s(self, counter: Any, gauge: Any) -> None:
        lookups = counter("tandem_cache_lookups_total", "Images that a cache was asked for.", ("level", "result"))
        errors = counter("tandem_cache_errors_total", "Failures of a cache; they are misses, too.", ("level",))
        self.cache_hits = {level: lookups.labels(level, "hit") for level in get_args(Level)}
        self.cache_misses = {level: lookups.labels(level, "miss") for level in get_args(Level)}
        self.cache_errors = {level: errors.labels(level) for level in get_args(Level)}
        self.cache_dropped = counter("tandem_cache_dropped_total", "Results that a Redis should have got and did not.")
        self.cache_bytes = gauge("tandem_cache_bytes", "Memory that cached results take.")

    def _make_log_s(self, counter: Any, gauge: Any) -> None:
        self.log_written = counter("tandem_prediction_log_written_total", "Entries in the prediction log.")
        self.log_dropped = counter("tandem_prediction_log_dropped_total", "Entries that the prediction log has lost.")
        self.log_queued = gauge("tandem_prediction_log_queued", "Entries that wait for the prediction log.")


@cache  # Prometheus refuses a second metric of the same name
def _known() -> Known:
    return Known()
