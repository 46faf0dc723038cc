"""Metrics: what is counted, over several workers and deaths, and that the dashboard asks for what there is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tests.registry.servers import free_port
from tests.service.test_supervision import until_workers
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "tandem.json").read_text())
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs prometheus and promtool: apt-get install prometheus",
)


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The values of a scrape."""

    def of(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that have these labels."""
        return sum(value for (each, has), value in self.items() if each == name and labels.items() <= dict(has).items())


def scrape(url: str) -> Samples:
    """Return the values that a service exposes now."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text)
    return Samples(
        {(sample.name, frozenset(sample.labels.items())): sample.value for each in families for sample in each.samples}
    )


def until(url: str, name: str, value: float, *, within_s: float = 15) -> Samples:
    """Return the values once one is as expected: some are sampled once a second."""
    deadline = time.monotonic() + within_s
    while (found := scrape(url)).of(name) != value:
        assert time.monotonic() < deadline, f"{name} is {found.of(name)}, not {value}"
        time.sleep(0.1)
    return found


def test_model_info_names_what_runs(server: Server, image: bytes) -> None:
    """The metric names the same engine and precision as the answers: `auto` may have chosen them."""
    engine = httpx.post(f"{server.url}/classify", content=image).json()["engine"]
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    [info] = [line for line in lines if line.startswith("tandem_model_info{")]
    for label in (f'engine="{engine["name"]}"', f'precision="{engine["precision"]}"', 'model="digits@sha256:'):
        assert label in info
    assert info.endswith("} 1.0")


def test_an_image_is_counted_in_each_stage(server: Server, image: bytes) -> None:
    """One image: one request, one outcome, one observation of each stage and one run of the engine."""
    before = scrape(server.url)
    httpx.post(f"{server.url}/classify", content=image).raise_for_status()
    after = scrape(server.url)

    def grown(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    assert grown("tandem_requests_total", endpoint="/classify", status="200", reason="") == 1
    assert grown("tandem_request_duration_seconds_count", endpoint="/classify", status="2xx") == 1
    assert grown("tandem_images_total", outcome="scored") == 1
    for stage in ("queue", "decode", "inference"):
        assert grown("tandem_image_stage_seconds_count", stage=stage) == 1
    assert grown("tandem_execution_images_sum") == grown("tandem_execution_images_count") == 1
    stages = grown("tandem_image_stage_seconds_sum")
    assert 0 < stages < grown("tandem_request_duration_seconds_sum", endpoint="/classify") < 60
    assert grown("tandem_execution_duration_seconds_sum") == pytest.approx(
        grown("tandem_image_stage_seconds_sum", stage="inference")
    )


def test_a_bad_image_is_counted_by_its_reason(server: Server, image: bytes) -> None:
    """In a batch, each image counts for itself; what was not decoded is in no stage."""
    before = scrape(server.url)
    files = [("images", image), ("images", b"no image"), ("images", image[:50])]
    reasons = [
        (item["error"] or {}).get("reason", "scored")
        for item in httpx.post(f"{server.url}/classify_batch", files=files).raise_for_status().json()["results"]
    ]
    after = scrape(server.url)
    assert len(set(reasons)) == 3
    for reason in reasons:
        assert after.of("tandem_images_total", outcome=reason) - before.of("tandem_images_total", outcome=reason) == 1
    stage = {"stage": "decode"}
    name = "tandem_image_stage_seconds_count"
    assert after.of(name, **stage) - before.of(name, **stage) == 1


def test_scanners_make_no_labels(server: Server) -> None:
    """Whatever strangers ask for, the number of time series stays small."""
    with httpx.Client(base_url=server.url) as client:
        for number in range(50):
            client.request("GET", f"/{number}")
            client.request("PROPFIND", f"/{number}")
            client.request("PROPFIND", "/classify")
            client.post("/classify", content=b"x" * number)
            client.post(f"/classify?top_k={number}x", content=b"x")
        before = len(scrape(server.url))
        for number in range(50, 250):
            client.request("MKCOL", f"/{number}", headers={"X-Request-Id": str(number)})
            client.request("MKCOL", "/classify")
            client.post("/classify", content=os.urandom(number))
        assert len(scrape(server.url)) <= before + 40


@contextmanager
def load(url: str, image: bytes, *, clients: int) -> Iterator[None]:
    """Send batches of images from several clients for as long as the block runs."""
    stop = threading.Event()
    files = [("images", image)] * 100

    def send() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                with contextlib.suppress(httpx.TransportError):  # its worker is killed
                    client.post("/classify_batch", files=files)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_several_workers_sum_and_a_dead_one_vanishes(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """Counters and gauges are those of both workers; what a killed one had in flight is gone, what it did stays."""
    with serving(tmp_path, "--api-workers", "2", home=digits_home, TANDEM_CACHE="0") as server:
        pids = until_workers(server, 2)
        until(server.url, "tandem_worker_starts_total", 2, within_s=60)
        for _ in range(20):
            httpx.post(f"{server.url}/classify", content=image).raise_for_status()
        found = scrape(server.url)
        assert found.of("tandem_requests_total", endpoint="/classify", status="200") == 20
        assert found.of("tandem_image_stage_seconds_count", stage="decode") == 20
        assert found.of("tandem_model_info") == 1
        with load(server.url, image, clients=4):
            until_busy(server.url)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        until(server.url, "tandem_worker_starts_total", 4, within_s=90)
        found = until(server.url, "tandem_requests_in_flight", 0)
        assert found.of("tandem_images_waiting") == 0
        assert found.of("tandem_requests_total", endpoint="/classify", status="200") == 20


def until_busy(url: str) -> None:
    """Wait until requests are in flight, and images wait."""
    deadline = time.monotonic() + 60
    while not all(scrape(url).of(name) for name in ("tandem_requests_in_flight", "tandem_images_waiting")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_metric_is_documented(server: Server) -> None:
    """docs/monitoring.md has each metric of a running service, and no other."""
    exposed = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in scrape(server.url) if name.startswith("tandem_")}
    documented = {
        re.sub("_(bucket|sum|count)$", "", name)
        for name in re.findall(r"\btandem_\w+", (ROOT / "docs" / "monitoring.md").read_text())
    }
    assert documented == exposed


class TestDashboard:
    @pytest.mark.parametrize("name", EXPRESSIONS)
    def test_it_asks_for_what_there_is(self, server: Server, name: str) -> None:
        """Each metric in a query is exposed by a running service, cache and log unused."""
        exposed = {name for name, _ in scrape(server.url)}
        asked = set(re.findall(r"\btandem_\w+", EXPRESSIONS[name]))
        assert asked
        assert asked <= exposed

    def test_it_shows_every_metric(self, server: Server) -> None:
        """No metric of the service is left out."""
        exposed = {
            re.sub("_(bucket|sum|count)$", "", name) for name, _ in scrape(server.url) if name.startswith("tandem_")
        }
        shown = {
            re.sub("_(bucket|sum|count)$", "", name)
            for expression in EXPRESSIONS.values()
            for name in re.findall(r"\btandem_\w+", expression)
        }
        assert exposed == shown

    def test_it_can_be_provisioned_anywhere(self) -> None:
        """It has a UID of its own, and its data source is a variable, not that of the machine it was made on."""
        assert DASHBOARD["uid"] == "tandem"
        assert DASHBOARD["schemaVersion"] >= 36
        sources = [found["datasource"] for found in everything_in(DASHBOARD) if "datasource" in found]
        assert sources
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
        names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
        assert names == ["datasource", "job", "instance"]
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(ids)) == len(ids)


def everything_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in a JSON value."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from everything_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from everything_in(each)


@needs_prometheus
class TestPrometheus:
    def test_names_and_units(self, server: Server, image: bytes) -> None:
        """Prometheus' own linter has nothing to say about our metrics."""
        httpx.post(f"{server.url}/classify", content=image)
        said = subprocess.run(
            ["promtool", "check", "metrics"],
            input=httpx.get(f"{server.url}/metrics").content,
            capture_output=True,
            check=False,
        )
        assert [line for line in (said.stdout + said.stderr).decode().splitlines() if "tandem_" in line] == []

    def test_each_query_answers(self, server: Server, image: bytes, tmp_path: Path) -> None:
        """A real Prometheus that scrapes the service answers each query of the dashboard; most of them with numbers."""
        port = free_port()
        target = server.url.removeprefix("http://")
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "tandem", "static_configs": [{"targets": [target]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"],
                cwd=tmp_path, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            api = f"http://127.0.0.1:{port}/api/v1/query"
            count = 'count_over_time(tandem_worker_starts_total{job="tandem"}[1m])'
            deadline = time.monotonic() + 60
            while not (scrapes := result(api, count)) or float(scrapes[0]["value"][1]) < 4:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                httpx.post(f"{server.url}/classify", content=image)
                httpx.post(f"{server.url}/classify", content=b"no image")
                time.sleep(0.3)
            answers = {name: result(api, concrete(query)) for name, query in EXPRESSIONS.items()}
        finally:
            process.terminate()
            process.wait(timeout=20)
        assert [name for name, answer in answers.items() if not answer] == []
        idle = {name for name, answer in answers.items() if all(each["value"][1] == "NaN" for each in answer)}
        assert idle <= {"Cache hit ratio A"}  # the service is without a cache


def concrete(query: str) -> str:
    """Return a query with the variables of Grafana filled in."""
    return query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def result(api: str, query: str) -> list[dict[str, Any]]:
    """Return what a Prometheus answers to a query; nothing while it starts."""
    try:
        answer = httpx.get(api, params={"query": query}).json()
    except httpx.TransportError:
        return []
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found
