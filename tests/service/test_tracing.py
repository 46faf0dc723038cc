"""Spans: continued from the client's trace, received by a real OTLP collector, and absent unless asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from bentoml.exceptions import BentoMLException
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service import tracing
from service.tracing import chosen_exporter
from tests.conftest import ROOT
from tests.registry.servers import free_port
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOON = {"TANDEM_CACHE": "0", "OTEL_BSP_SCHEDULE_DELAY": "100"}
"""A second or so of waiting less in each test."""


class Collector:
    """What a collector has received over OTLP/HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Any]:
        """All spans, decoded."""
        return [
            s for r in self.requests for each in r.resource_spans for scope in each.scope_spans for s in scope.spans
        ]

    def of_trace(self, trace_id: str, *, count: int, within_s: float = 15) -> list[Any]:
        """Return the spans of a trace in the order of their begin, once there are `count`."""
        deadline = time.monotonic() + within_s
        while True:
            found = [span for span in self.spans if span.trace_id.hex() == trace_id]
            if len(found) >= count or time.monotonic() > deadline:
                return sorted(found, key=lambda span: int(span.start_time_unix_nano))
            time.sleep(0.05)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yield a collector that listens on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        collector = Collector(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def traced(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Collector]]:
    """Yield a service that sends its spans, and where they arrive."""
    with (
        collecting() as collector,
        serving(
            tmp_path_factory.mktemp("traced"),
            home=digits_home,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_SERVICE_NAME="digits-on-shelf-3",
            **SOON,
        ) as server,
    ):
        yield server, collector


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes, or a resource's."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


class TestSpans:
    def test_a_request_is_three_spans(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """Request, decode and inference; the last two inside the first, one after the other; with what is known."""
        server, collector = traced
        answer = httpx.post(f"{server.url}/classify", content=image).raise_for_status()
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        request, decode, inference = collector.of_trace(line["trace_id"], count=3)
        assert [each.name for each in (request, decode, inference)] == ["POST /classify", "decode", "inference"]
        assert request.parent_span_id == b""
        assert {decode.parent_span_id, inference.parent_span_id} == {request.span_id}
        times = [request.start_time_unix_nano, decode.start_time_unix_nano, decode.end_time_unix_nano]
        times += [inference.start_time_unix_nano, inference.end_time_unix_nano, request.end_time_unix_nano]
        assert times == sorted(times)
        assert abs(times[0] / 1e9 - time.time()) < 60
        assert (times[-1] - times[0]) / 1e6 == pytest.approx(line["duration_ms"], abs=0.1)
        found = attributes(request)
        assert found["tandem.request_id"] == line["request_id"]
        assert (found["http.route"], found["http.response.status_code"], found["tandem.images"]) == (
            "/classify",
            200,
            1,
        )
        assert 0 <= attributes(inference)["tandem.queue_seconds"] < 60
        assert attributes(decode)["tandem.image.bytes"] == len(image)

    def test_the_clients_trace_goes_on(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """W3C's `traceparent` is continued: the request is a child of the client's span, in its trace."""
        server, collector = traced
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        httpx.post(f"{server.url}/classify", content=image, headers=sent).raise_for_status()
        request, *_ = collector.of_trace(TRACE, count=3)
        assert request.parent_span_id.hex() == PARENT
        assert len(server.logged(trace_id=TRACE)) == 1

    def test_a_client_that_doesnt_sample_is_heeded(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """A trace that its beginner did not sample makes no spans here, and none of its lines names it."""
        server, collector = traced
        unsampled, sampled = "a" * 32, "b" * 32
        for trace, flag in ((unsampled, "00"), (sampled, "01")):
            sent = {"traceparent": f"00-{trace}-{PARENT}-{flag}"}
            httpx.post(f"{server.url}/classify", content=image, headers=sent).raise_for_status()
        assert len(collector.of_trace(sampled, count=3)) == 3
        assert collector.of_trace(unsampled, count=0) == []

    def test_many_images_are_told_apart(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """`/classify_batch`: two spans for each image that was decoded, with its place in the request."""
        server, collector = traced
        files = [("images", image), ("images", image), ("images", b"no image")]
        answer = httpx.post(f"{server.url}/classify_batch", files=files).raise_for_status()
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        spans = collector.of_trace(line["trace_id"], count=5)
        places = sorted(
            (s.name, attributes(s)["tandem.image.index"]) for s in spans if s.name != "POST /classify_batch"
        )
        assert places == [("decode", 0), ("decode", 1), ("inference", 0), ("inference", 1)]

    def test_refusals_have_their_reason(self, traced: tuple[Server, Collector]) -> None:
        """A refused request is a span with its status and reason; a client's fault is not a failure of the service."""
        server, collector = traced
        answer = httpx.post(f"{server.url}/classify", content=b"no image")
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        [span] = collector.of_trace(line["trace_id"], count=1)
        assert (attributes(span)["error.type"], attributes(span)["http.response.status_code"]) == ("not_an_image", 415)
        assert span.status.code == span.status.STATUS_CODE_UNSET

    def test_strangers_name_no_spans(self, traced: tuple[Server, Collector]) -> None:
        """A path or method that the service doesn't have is an attribute, not a name."""
        server, collector = traced
        httpx.request("PROPFIND", f"{server.url}/tea", headers={"traceparent": f"00-{'9' * 32}-{PARENT}-01"})
        [span] = collector.of_trace("9" * 32, count=1)
        assert span.name == "HTTP"
        assert "http.route" not in attributes(span)
        assert (attributes(span)["http.request.method"], attributes(span)["url.path"]) == ("PROPFIND", "/tea")

    def test_the_resource_names_service_and_model(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """OTEL_SERVICE_NAME is heeded, and the model's identity comes along."""
        server, collector = traced
        httpx.post(f"{server.url}/classify", content=image, headers={"traceparent": f"00-{'c' * 32}-{PARENT}-01"})
        collector.of_trace("c" * 32, count=3)
        found = attributes(collector.requests[0].resource_spans[0].resource)
        assert found["service.name"] == "digits-on-shelf-3"
        assert found["tandem.model"] == server.model["model"]
        assert found["telemetry.sdk.language"] == "python"

    @pytest.mark.parametrize("header", ["nonsense", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "", "\u00ff"])
    def test_a_bad_traceparent_begins_a_trace(
        self, traced: tuple[Server, Collector], image: bytes, header: str
    ) -> None:
        """Whatever the header holds, the answer comes, and a new trace begins."""
        server, collector = traced
        answer = httpx.post(
            f"{server.url}/classify", content=image, headers={"traceparent": header.encode("latin-1")}
        ).raise_for_status()
        [line] = server.logged(request_id=answer.headers["x-request-id"])
        assert len(collector.of_trace(line["trace_id"], count=3)) == 3

    def test_probes_are_not_traced(self, traced: tuple[Server, Collector], image: bytes) -> None:
        """What monitors ask for every few seconds makes no spans."""
        server, collector = traced
        for path in ("/livez", "/readyz", "/metrics"):
            httpx.get(f"{server.url}{path}", headers={"traceparent": f"00-{'d' * 32}-{PARENT}-01"})
        httpx.post(f"{server.url}/classify", content=image, headers={"traceparent": f"00-{'e' * 32}-{PARENT}-01"})
        assert len(collector.of_trace("e" * 32, count=3)) == 3
        assert collector.of_trace("d" * 32, count=0) == []


def test_a_collector_that_is_down_delays_nothing(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """Answers come as before, one line of the log says what happens, and the service ends in a few seconds."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    with serving(tmp_path, home=digits_home, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **SOON) as server:
        httpx.post(f"{server.url}/classify", content=image, timeout=20).raise_for_status()
        deadline = time.monotonic() + 20
        while "exporting" not in server.log and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)  # in which the SDK tries again
        httpx.post(f"{server.url}/classify", content=image, timeout=20).raise_for_status()
        [told] = [line for line in server.lines if line["logger"].startswith("opentelemetry.")]
        assert "exporting spans batch" in told["message"]
        assert "Traceback" not in server.log
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - began < 15  # of which at most 3 s are the collector's; the machine may be busy


def test_console(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """OTEL_TRACES_EXPORTER=console prints each span as an object on one line, without a collector."""
    with serving(tmp_path, home=digits_home, OTEL_TRACES_EXPORTER="console", **SOON) as server:
        answer = httpx.post(f"{server.url}/classify", content=image).raise_for_status()
        server.logged(request_id=answer.headers["x-request-id"])
        assert len(server.logged(name="decode")) == 1
        [request] = server.logged(name="POST /classify")
        assert request["attributes"]["tandem.request_id"] == answer.headers["x-request-id"]
        assert request["resource"]["attributes"]["service.name"] == "tandem"


def test_nothing_is_imported_without_an_exporter() -> None:
    """A service that sends no spans doesn't pay for the SDK."""
    script = (
        "import sys; import service.service; from service.tracing import start_tracing;"
        "print(start_tracing(None), 'opentelemetry.sdk.trace' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["None", "False"]


def test_no_spans_without_an_exporter(server: Server, image: bytes) -> None:
    """Unless the variables ask for spans there are none: no `trace_id` in the log, whatever the client sends."""
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "untraced"}
    httpx.post(f"{server.url}/classify", content=image, headers=sent).raise_for_status()
    [line] = server.logged(request_id="untraced")
    assert "trace_id" not in line


class TestChosenExporter:
    @pytest.mark.parametrize(
        ("variables", "exporter"),
        [
            ({}, None),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "otlp"),
            ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
            ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
            ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
            ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ],
    )
    def test_the_standard_variables(self, variables: dict[str, str], exporter: str | None) -> None:
        """OpenTelemetry's own variables decide; an endpoint alone is enough, and without one nothing is sent."""
        assert chosen_exporter(variables) == exporter

    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
            ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "usually 4318"),
        ],
    )
    def test_others_are_refused(self, variables: dict[str, str], said: str) -> None:
        """What the service can't do ends its start with a sentence."""
        with pytest.raises(BentoMLException, match=said):
            chosen_exporter(variables)

    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the extra, the sentence names it."""
        # It is installed here; a second environment without it would take minutes.
        monkeypatch.setattr(tracing, "find_spec", lambda _: None)
        with pytest.raises(BentoMLException, match=r"opentelemetry\.exporter.*'\.\[tracing\]'"):
            chosen_exporter({"OTEL_TRACES_EXPORTER": "otlp"})
