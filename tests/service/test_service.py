"""The running service: its log, metrics and probes, and BentoML's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model
    from tests.serving import Server


def test_log_names_the_model_and_what_runs_it(server: Server, model: Model) -> None:
    """One line at the start names identity, engine, device, instruction set and precision."""
    [line] = [line for line in server.log.splitlines() if model.identity in line and "self-test" in line]
    info = model.engine.info
    assert f"{info.name} {info.version}, {info.device} ({info.instruction_set}), {info.precision}" in line


def test_a_request_is_one_line_of_the_log(server: Server, image: bytes) -> None:
    """The line has the status and the length, but nothing of the image."""
    answer = httpx.post(f"{server.url}/classify", content=image).raise_for_status()
    [line] = server.logged(request_id=answer.headers["x-request-id"])
    assert (line["path"], line["status"]) == ("/classify", 200)
    assert (line["bytes_in"], line["images"]) == (len(image), 1)
    assert "PNG" not in server.log


def test_metrics_count_requests_by_status(server: Server, image: bytes) -> None:
    """Requests are counted by endpoint, status and reason, refusals included."""
    httpx.post(f"{server.url}/classify", content=image)
    httpx.post(f"{server.url}/classify", content=b"no image")
    metrics = httpx.get(f"{server.url}/metrics").text
    for reason, status in (("", 200), ("not_an_image", 415)):
        assert f'tandem_requests_total{{endpoint="/classify",reason="{reason}",status="{status}"}}' in metrics


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_probes_answer(server: Server, path: str) -> None:
    """Kubernetes' probes get 200 from a ready service."""
    assert httpx.get(f"{server.url}{path}").status_code == 200


def test_bentoml_client_takes_a_path(server: Server, image_file: Path, image: bytes) -> None:
    """BentoML's own client finds the endpoint and its parameters without help."""
    # In a separate process: the client leaves a temporary folder to the garbage collector, which pytest reports.
    script = f"""
import bentoml, json, pathlib
with bentoml.SyncHTTPClient({server.url!r}) as client:
    print(json.dumps(client.classify(image=pathlib.Path({str(image_file)!r}), top_k=2)))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout
    assert json.loads(printed) == httpx.post(f"{server.url}/classify?top_k=2", content=image).json()
