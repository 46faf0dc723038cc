"""The running service: what it answers to what it should be asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np
import pytest

from classifier.errors import ImageError
from classifier.types import EngineInfo, Preprocessing, from_json
from service.answers import Classification

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier.model import Model
    from tests.service.conftest import Server


def scores_of(answer: httpx.Response) -> NDArray[np.float32]:
    """Return the scores of an answer that has all labels, in the order of the labels."""
    assert answer.status_code == 200, answer.text
    by_index = {prediction["index"]: prediction["score"] for prediction in answer.json()["predictions"]}
    scores = np.array([by_index[index] for index in range(len(by_index))])
    assert (scores == scores.astype(np.float32)).all(), "a score is no float32 value"
    return scores.astype(np.float32)


class TestClassify:
    def test_answers_what_the_model_answers(self, server: Server, model: Model, image: bytes) -> None:
        """Labels, scores to the last bit, and what classified the image: name, digest and engine."""
        answer = httpx.post(f"{server.url}/classify", files={"image": image}).raise_for_status()
        [predictions] = model.classify([image])
        assert not isinstance(predictions, ImageError)
        expected = Classification(
            predictions=predictions, model=model.identity, digest=model.digest, engine=model.engine.info
        )
        assert from_json(answer.content, Classification) == expected
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream", "text/plain"])
    def test_takes_a_raw_body_whatever_it_claims_to_be(
        self, server: Server, image: bytes, content_type: str | None
    ) -> None:
        """A body that is no form is the image: `curl --data-binary @FILE` works. The bytes decide, not the header."""
        form = httpx.post(f"{server.url}/classify", files={"image": image})
        raw = httpx.post(
            f"{server.url}/classify", content=image, headers={"Content-Type": content_type} if content_type else None
        )
        assert raw.content == form.content

    def test_takes_a_chunked_body(self, server: Server, image: bytes) -> None:
        """A client that doesn't know the length beforehand is served."""

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(image), 100):
                yield image[start : start + 100]

        answer = httpx.post(f"{server.url}/classify", content=chunks())
        assert "content-length" not in answer.request.headers
        assert answer.content == httpx.post(f"{server.url}/classify", content=image).content

    @pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (10, 10), (10**30, 10)])
    def test_top_k_is_a_field_or_a_parameter(self, server: Server, image: bytes, top_k: int, count: int) -> None:
        """The highest come first; more than there are labels gives all of them."""
        field = httpx.post(f"{server.url}/classify", files={"image": image}, data={"top_k": str(top_k)}).json()
        parameter = httpx.post(f"{server.url}/classify", content=image, params={"top_k": top_k}).json()
        both = httpx.post(f"{server.url}/classify?top_k=2", files={"image": image}, data={"top_k": str(top_k)}).json()
        assert field == parameter == both
        scores = [prediction["score"] for prediction in field["predictions"]]
        assert len(scores) == count
        assert scores == sorted(scores, reverse=True)

    def test_five_labels_are_the_default(self, server: Server, image: bytes) -> None:
        """Few enough to read, enough for acc5."""
        assert len(httpx.post(f"{server.url}/classify", content=image).json()["predictions"]) == 5

    def test_parallel_clients_get_the_bits_of_the_model(self, server: Server, model: Model, test_folder: Path) -> None:
        """32 clients at a time, each image alone: every score is the one it has in a batch with the others."""
        images = [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[:160]]
        expected = model.scores(np.stack([model.decode(image).pixels for image in images]))
        with httpx.Client(limits=httpx.Limits(max_connections=32)) as client, ThreadPoolExecutor(32) as pool:
            answers = list(
                pool.map(lambda image: client.post(f"{server.url}/classify?top_k=10", content=image), images)
            )
        assert np.stack([scores_of(answer) for answer in answers]).tobytes() == expected.tobytes()

    def test_bentoml_client_takes_a_path(self, server: Server, image_file: Path, image: bytes) -> None:
        """BentoML's own client finds the endpoint and its parameters by itself."""
        # In a process of its own: the client leaves a temporary folder to the garbage collector, which pytest reports.
        script = f"""
import bentoml, json, pathlib
with bentoml.SyncHTTPClient({server.url!r}) as client:
    print(json.dumps(client.classify(image=pathlib.Path({str(image_file)!r}), top_k=2)))
"""
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout
        assert json.loads(printed) == httpx.post(f"{server.url}/classify?top_k=2", content=image).json()


class TestModel:
    def test_describes_what_is_served(self, server: Server, model: Model) -> None:
        """One request tells which model answers, how it wants its images, and what runs it."""
        described: Any = server.model
        assert described["model"] == model.identity
        assert described["digest"] == model.digest
        assert described["labels"] == list(model.config.labels)
        assert msgspec.convert(described["preprocessing"], Preprocessing) == model.config.preprocessing
        assert msgspec.convert(described["engine"], EngineInfo) == model.engine.info
        assert described["self_test"]["images"] == len(model.golden.images)


class TestOperations:
    def test_log_names_the_model_and_what_runs_it(self, server: Server, model: Model) -> None:
        """One line at the start tells identity, engine, device, instruction set and precision."""
        [line] = [line for line in server.log.splitlines() if model.identity in line and "self-test" in line]
        info = model.engine.info
        assert f"{info.name} {info.version}, {info.device} ({info.instruction_set}), {info.precision}" in line

    def test_a_request_is_one_line_of_the_log(self, server: Server, image: bytes) -> None:
        """It has the status and the length, none of the contents."""
        before = len(server.log.splitlines())
        httpx.post(f"{server.url}/classify", content=image).raise_for_status()
        deadline = time.monotonic() + 10
        while len(server.log.splitlines()) == before and time.monotonic() < deadline:
            time.sleep(0.05)  # the line is written after the answer
        [line] = server.log.splitlines()[before:]
        assert "path=/classify" in line
        assert "status=200" in line
        assert "PNG" not in line

    def test_metrics_count_requests_by_status(self, server: Server, image: bytes) -> None:
        """Prometheus sees the service's own endpoint, refusals included."""
        httpx.post(f"{server.url}/classify", content=image)
        httpx.post(f"{server.url}/classify", content=b"no image")
        metrics = httpx.get(f"{server.url}/metrics").text
        counted = [line for line in metrics.splitlines() if line.startswith("bentoml_service_request_total")]
        for status in ("200", "415"):
            assert any(f'http_response_code="{status}"' in line and "/classify" in line for line in counted)

    def test_metrics_say_what_runs(self, server: Server, image: bytes) -> None:
        """Prometheus sees the engine and the precision that answers carry, which `auto` may have chosen."""
        engine = httpx.post(f"{server.url}/classify", content=image).json()["engine"]
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        [info] = [line for line in lines if line.startswith("tandem_model_info{")]
        for label in (f'engine="{engine["name"]}"', f'precision="{engine["precision"]}"', 'model="digits@sha256:'):
            assert label in info
        assert info.endswith("} 1.0")

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
    def test_probes_answer(self, server: Server, path: str) -> None:
        """What Kubernetes asks."""
        assert httpx.get(f"{server.url}{path}").status_code == 200
