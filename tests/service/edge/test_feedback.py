"""`POST /feedback`: the truth is queued, and what can't be the truth is refused with a sentence."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette

from service.edge.application import Application
from service.edge.feedback import FEEDBACK_ROUTES
from service.limits import MAX_FEEDBACK_BYTES
from service.log import PredictionLog
from service.serving import Serving
from tests.service.log.entries import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture
def log(sqlite_url: str) -> Iterator[PredictionLog]:
    opened = PredictionLog.open(sqlite_url)
    yield opened
    opened.close(10)


@pytest.fixture
def logging(serving: Serving, log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the service in this process keep the log."""
    logging = dataclasses.replace(serving, prediction_log=log)
    monkeypatch.setattr(Serving, "current", lambda: logging)


async def post(**request: Any) -> httpx.Response:
    transport = httpx.ASGITransport(Application(Starlette(), FEEDBACK_ROUTES))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        headers = {"Content-Type": "application/json"}
        return await client.post("/feedback", **{"headers": headers, **request})


@pytest.mark.anyio
@pytest.mark.usefixtures("logging")
async def test_accepted(log: PredictionLog, sqlite_url: str) -> None:
    """The answer is 202, before the database has it; then it is stored."""
    answer = await post(json={"request_id": "abc", "label": "7"})
    assert answer.status_code == 202
    assert answer.json() == {"request_id": "abc", "label": "7", "index": 0}
    assert (await post(json={"request_id": "abc", "label": "5", "index": 3})).status_code == 202
    await log.aclose(10)
    found = rows(sqlite_url, "SELECT request_id, image_index, label FROM tandem_feedback ORDER BY image_index")
    assert [tuple(row.values()) for row in found] == [("abc", 0, "7"), ("abc", 3, "5")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "status", "reason", "said"),
    [
        (b"", 400, "malformed_json", "not JSON"),
        (b"{", 400, "malformed_json", "not JSON"),
        (b"\xff\xfe", 400, "malformed_json", "not JSON"),
        (b"[" * 10_000, 400, "malformed_json", "not JSON"),
        (b"[]", 422, "bad_feedback", "array"),
        (b"{}", 422, "bad_feedback", "request_id"),
        (b'{"request_id": "abc"}', 422, "bad_feedback", "label"),
        (b'{"request_id": "", "label": "3"}', 422, "bad_feedback", "request_id"),
        (b'{"request_id": "%s", "label": "3"}' % (b"x" * 201), 422, "bad_feedback", "request_id"),
        (b'{"request_id": "a\\u0000b", "label": "3"}', 422, "bad_feedback", "request_id"),
        (b'{"request_id": "abc\\n", "label": "3"}', 422, "bad_feedback", "request_id"),
        (b'{"request_id": 7, "label": "3"}', 422, "bad_feedback", "request_id"),
        (b'{"request_id": "abc", "label": "Three"}', 422, "unknown_label", "GET /model"),
        (b'{"request_id": "abc", "label": null}', 422, "bad_feedback", "label"),
        (b'{"request_id": "abc", "label": "3", "index": -1}', 422, "bad_feedback", "index"),
        (b'{"request_id": "abc", "label": "3", "index": 2147483648}', 422, "bad_feedback", "index"),
        (b'{"request_id": "abc", "label": "3", "index": 0.5}', 422, "bad_feedback", "index"),
        (b'{"request_id": "abc", "label": "3", "index": "0"}', 422, "bad_feedback", "index"),
        (b'{"request_id": "abc", "label": "3", "lable": "5"}', 422, "bad_feedback", "lable"),
        (b" " * (MAX_FEEDBACK_BYTES + 1), 413, "too_large", "16,384 bytes"),
    ],
)
@pytest.mark.usefixtures("logging")
async def test_refused(log: PredictionLog, body: bytes, status: int, reason: str, said: str) -> None:
    """The answer has the usual form, and says which field is wrong; nothing is queued."""
    answer = await post(content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["reason"]) == (status, reason)
    assert said in error["message"]
    await log.aclose(10)
    assert log.written == 0


@pytest.mark.anyio
@pytest.mark.parametrize("sent", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.usefixtures("logging")
async def test_types_that_any_page_can_send(log: PredictionLog, sent: str) -> None:
    """A page of another origin can send these without asking the service first, so they are refused."""
    answer = await post(content=b'{"request_id": "abc", "label": "3"}', headers={"Content-Type": sent})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (415, "not_json")
    await log.aclose(10)
    assert log.written == 0


@pytest.mark.anyio
@pytest.mark.usefixtures("serving")
async def test_no_log() -> None:
    """A service without a log says so, whatever it is sent."""
    answer = await post(content=b"{")
    assert answer.status_code == 404
    assert "TANDEM_LOG_URL" in answer.json()["error"]["message"]


@pytest.mark.anyio
@pytest.mark.usefixtures("logging")
async def test_what_is_not_taken_is_not_promised(log: PredictionLog) -> None:
    """If the log drops the feedback, the client is told to send it again."""
    await log.aclose(10)
    answer = await post(json={"request_id": "abc", "label": "3"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert log.dropped == 1
