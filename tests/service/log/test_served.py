"""The prediction log of a running service: one row for each image, written beside the answers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.service.log.entries import rows
from tests.serving import bentoml, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem


def test_every_image_is_a_row(digits_home: Path, tmp_path: Path, image: bytes, tandem: Tandem) -> None:
    """Answers, refusals, batches, cache hits and feedback: all are there when the service has ended."""
    url = f"sqlite:///{tmp_path}/log.db"
    with serving(tmp_path / "serve", home=digits_home, TANDEM_LOG_URL=url) as server:
        ids = {"X-Request-Id": "one"}
        answer = httpx.post(f"{server.url}/classify?top_k=2", content=image, headers=ids).raise_for_status().json()
        httpx.post(f"{server.url}/classify", content=image, headers={"X-Request-Id": "again"}).raise_for_status()
        httpx.post(f"{server.url}/classify", content=b"no image", headers={"X-Request-Id": "bad"})
        files = [("images", each) for each in (image, b"")]
        httpx.post(f"{server.url}/classify_batch", files=files, headers={"X-Request-Id": "two"}).raise_for_status()
        truth = {"request_id": "one", "label": answer["predictions"][0]["label"]}
        assert httpx.post(f"{server.url}/feedback", json=truth).status_code == 202
    found = {
        (row["request_id"], row["image_index"]): row
        for row in rows(url, "SELECT * FROM tandem_predictions ORDER BY request_id, image_index")
    }
    statuses = {key: (row["status"], row["reason"], bool(row["cached"])) for key, row in found.items()}
    assert statuses == {
        ("one", 0): (200, None, False),
        ("again", 0): (200, None, True),
        ("bad", 0): (415, "not_an_image", False),
        ("two", 0): (200, None, True),
        ("two", 1): (400, "empty", False),
    }
    row = found["one", 0]
    assert row["sha256"] == hashlib.sha256(image).hexdigest()
    assert (row["bytes"], row["digest"], row["label"]) == (len(image), answer["digest"], truth["label"])
    assert row["total_ms"] > row["queue_ms"] + row["decode_ms"] + row["inference_ms"] > 0
    summary = json.loads(tandem("log", "summary", "--url", url, "--json").stdout)
    assert summary["images"] == 5


@pytest.mark.parametrize("url", ["mysql://localhost/log", "sqlite:////nowhere/log.db", "log.db"])
def test_a_wrong_url_ends_the_start(digits_home: Path, tmp_path: Path, url: str) -> None:
    """One sentence, and exit code 1."""
    done = bentoml(
        "serve", "--port", "0", home=digits_home, bentoml_home=tmp_path, check=False, timeout=60, TANDEM_LOG_URL=url
    )
    assert done.returncode == 1
    assert "log" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_a_database_that_is_down_delays_nothing(digits_home: Path, tmp_path: Path, image: bytes) -> None:
    """The service starts and answers, and one warning says that the log can't be written."""
    with serving(
        tmp_path, home=digits_home, TANDEM_LOG_URL="postgresql+psycopg://nobody@127.0.0.1:1/log", TANDEM_CACHE="0"
    ) as server:
        for _ in range(20):
            assert httpx.post(f"{server.url}/classify", content=image, timeout=5).status_code == 200
        assert server.log.count("can't be reached") <= 1
