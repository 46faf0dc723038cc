"""OpenTelemetry spans of requests, sent where the standard variables say; nothing is imported or made if none says so.

Spans are made when a request has been answered, from times that are known anyway.
"""

from __future__ import annotations

import logging
import os
import time
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

from bentoml.exceptions import BentoMLException

from classifier.extras import install_extra, installed_version
from service.exchange import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from classifier.model import Model
    from service.exchange import Exchange, Outcome

CLOSE_WITHIN_S = 3
"""How long the end of a worker waits for a collector."""

_TELL_EVERY_S = 60
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def chosen_exporter(environment: Mapping[str, str]) -> str | None:
    """Return the exporter that the variables of OpenTelemetry choose, `otlp` or `console`; None if there is none.

    An endpoint alone chooses `otlp`, so that a service without a collector exports nothing.

    Raises:
        BentoMLException: they choose something that the service doesn't have, or its package is not installed.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or default
    if exporter == "none":
        return None
    if exporter not in {"otlp", "console"}:
        raise BentoMLException(f"OTEL_TRACES_EXPORTER is '{exporter}'; set it to otlp, console or none")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if exporter == "otlp" and protocol != _PROTOCOL:
        raise BentoMLException(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is '{protocol}', and the service sends its spans as {_PROTOCOL}; "
            "unset it, and use your collector's port for HTTP, usually 4318"
        )
    package = "opentelemetry.exporter.otlp.proto.http" if exporter == "otlp" else "opentelemetry.sdk"
    if not _is_installed(package):
        raise BentoMLException(
            f"the environment asks for traces, and the package {package} is not installed; {install_extra('tracing')}"
        )
    return exporter


def start_tracing(model: Model) -> Tracing | None:
    """Return what records the spans of this process; None if nothing asks for them. Raises as `chosen_exporter`."""
    exporter = chosen_exporter(os.environ)
    return None if exporter is None else Tracing(exporter, model)


class Tracing:
    """Records the spans of requests, and sends them in the background.

    Args:
        exporter: `otlp` or `console`.
        model: what is served; each span's resource names it.
    """

    def __init__(self, exporter: str, model: Model) -> None:
        # Imported late: most services send no spans.
        from opentelemetry import propagate, trace  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
            BatchSpanProcessor,
            ConsoleSpanExporter,
            SpanExporter,
        )

        version = installed_version("tandem") or "unknown"
        ours = {"service.name": "tandem", "service.version": version, "tandem.model": model.identity}
        # What the user has set comes last: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource(ours).merge(_environments_resource())
        # Not at exit: the SDK would wait for a collector that is down.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        sender: SpanExporter
        if exporter == "console":
            sender = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

            sender = OTLPSpanExporter()
            logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Rarely())
        self._provider.add_span_processor(BatchSpanProcessor(sender))
        self._tracer = self._provider.get_tracer("tandem", version)
        self._trace = trace
        self._extract = propagate.extract

    def record(self, scope: Scope, exchange: Exchange, started: float, ended: float) -> str | None:
        """Record the spans of an answered request, and return the ID of its trace; None if it is not sampled.

        A W3C `traceparent` is continued. The times are those of `time.perf_counter`.
        """
        trace = self._trace
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        to_ns = _clock()
        # What strangers send must not become a name.
        name = "HTTP" if exchange.endpoint == UNKNOWN else f"{scope['method']} {exchange.endpoint}"
        span = self._tracer.start_span(
            name,
            context=self._extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(scope, exchange),
            start_time=to_ns(started),
        )
        if span.is_recording():
            if exchange.status >= 500:
                span.set_status(trace.StatusCode.ERROR, exchange.reason or "")
            context = trace.set_span_in_context(span)
            for outcome in exchange.outcomes:
                self._record_image(outcome, context, to_ns)
        span.end(to_ns(ended))
        found = span.get_span_context()
        return trace.format_trace_id(found.trace_id) if found.trace_flags.sampled else None

    def _record_image(self, outcome: Outcome, context: Any, to_ns: Any) -> None:
        scored = outcome.scored
        if scored is None or scored.decoded_from is None or scored.inferred_from is None:
            return  # refused, or from a cache
        stages = (
            ("decode", scored.decoded_from, scored.decode_s, {"tandem.image.bytes": outcome.size_bytes or 0}),
            ("inference", scored.inferred_from, scored.inference_s, {"tandem.queue_seconds": scored.queue_s}),
        )
        for name, began, took_s, attributes in stages:
            span = self._tracer.start_span(
                name,
                context=context,
                attributes={"tandem.image.index": outcome.index, **attributes},
                start_time=to_ns(began),
            )
            span.end(to_ns(began + took_s))

    def close(self) -> None:
        """Send what is left, for as long as `CLOSE_WITHIN_S` at most."""
        closing = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_WITHIN_S)


class _Rarely(logging.Filter):
    """Lets a line pass once a minute: the SDK tells of each attempt to reach a collector that is down."""

    _quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        if record.created < self._quiet_until:
            return False
        self._quiet_until = record.created + _TELL_EVERY_S
        return True


def _attributes(scope: Scope, exchange: Exchange) -> dict[str, str | int]:
    """Return the attributes of a request, by OpenTelemetry's conventions where it has some."""
    attributes: dict[str, str | int] = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "http.response.status_code": exchange.status,
        "tandem.request_id": exchange.request_id,
        "tandem.images": len(exchange.outcomes),
    }
    if exchange.endpoint != UNKNOWN:
        attributes["http.route"] = exchange.endpoint
    if exchange.reason is not None:
        attributes["error.type"] = exchange.reason
    if exchange.client is not None:
        attributes["tandem.client"] = exchange.client
    return attributes


def _clock() -> Any:
    """Return a function from `time.perf_counter` to nanoseconds since the epoch."""
    offset_ns = time.time_ns() - time.perf_counter_ns()
    return lambda seconds: offset_ns + int(seconds * 1e9)


def _environments_resource() -> Any:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415

    # `create` adds what describes the SDK, and a service.name, which would hide ours.
    sdk = {k: v for k, v in Resource.create().attributes.items() if k.startswith("telemetry.")}
    return Resource(sdk).merge(OTELResourceDetector().detect())


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
