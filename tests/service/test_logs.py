"""The form of log lines: one JSON object a line off a terminal, with the ID of its request; text on one."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.edge.access_log import AccessLine, NoRequest
from service.logs import REQUEST_ID, JsonLines, log_format
from tests.conftest import ROOT
from tests.registry.servers import free_port
from tests.serving import BENTOML

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server


def formatted(message: object, *args: object, exc_info: Any = None) -> str:
    """Return the line of a record."""
    return JsonLines().format(logging.LogRecord("a.logger", logging.WARNING, "", 0, message, args, exc_info))


class TestJsonLines:
    @given(st.text(st.characters(exclude_categories=())))
    def test_any_text_is_one_ascii_line(self, text: str) -> None:
        """Whatever a message holds, even half a surrogate pair, is one line for every reader, and comes back whole."""
        line = formatted("%s", text)
        assert line.isascii()
        assert len(line.splitlines()) == 1
        assert json.loads(line)["message"] == text

    def test_names_and_time(self) -> None:
        """The names are those of a bulk run's log; the time is RFC 3339 in UTC, to the millisecond."""
        line = json.loads(formatted("%d of %d", 1, 2))
        assert {**line, "time": ""} == {"time": "", "level": "warning", "logger": "a.logger", "message": "1 of 2"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
        assert datetime.now(UTC) - datetime.fromisoformat(line["time"]) < timedelta(minutes=1)

    def test_traceback_is_a_field(self) -> None:
        """An exception's traceback is text in the same object."""
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            line = formatted("failed", exc_info=(type(error), error, error.__traceback__))
        assert len(line.splitlines()) == 1
        assert json.loads(line)["exception"].startswith("Traceback (most recent call last):\n")

    def test_a_line_of_a_request_has_its_id(self) -> None:
        """What is logged on behalf of a request can be found by the request's ID; other lines have none."""
        token = REQUEST_ID.set("abc")
        try:
            assert json.loads(formatted("x"))["request_id"] == "abc"
        finally:
            REQUEST_ID.reset(token)
        assert "request_id" not in json.loads(formatted("x"))

    def test_numbers_are_numbers(self) -> None:
        """Programs read an access line's fields without parsing text; unknown ones are left out."""
        line = AccessLine(
            request_id="r", method="GET", path="/model", type=None, status=200, reason=None, duration_ms=1.25,
            client="ada", peer="[::1]:5", images=0, bytes_in=0, bytes_out=7, trace_id=None,
        )  # fmt: skip
        found = json.loads(formatted(line))
        assert {name: found[name] for name in ("message", "status", "duration_ms", "client", "peer", "bytes_out")} == {
            "message": "GET /model 200", "status": 200, "duration_ms": 1.25, "client": "ada", "peer": "[::1]:5",
            "bytes_out": 7,
        }  # fmt: skip
        assert not {"type", "reason", "trace_id"} & set(found)
        assert (
            json.loads(formatted(NoRequest(request_id="1", peer="::", status=431, reason="head_too_large")))["status"]
            == 431
        )


class TestLogFormat:
    @pytest.mark.parametrize("form", ["json", "text"])
    def test_the_variable_decides(self, form: str) -> None:
        """TANDEM_LOG_FORMAT forces a form."""
        assert log_format({"TANDEM_LOG_FORMAT": form}) == form

    def test_another_word_is_refused(self) -> None:
        """A typo is a sentence, not a guess."""
        with pytest.raises(click.UsageError, match=r"TANDEM_LOG_FORMAT is 'xml'.* set it to json or text"):
            log_format({"TANDEM_LOG_FORMAT": "xml"})


def test_all_lines_of_a_service_are_objects(server: Server, image: bytes) -> None:
    """Lines of BentoML's own loggers, of ours and of the access log, from parent and worker, have one form."""
    httpx.post(f"{server.url}/classify", content=image).raise_for_status()
    lines = server.lines
    assert {"bentoml.serve", "bentoml.tandem", "bentoml.access"} <= {line["logger"] for line in lines}
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def test_an_access_line_says_all(server: Server, image: bytes) -> None:
    """Method, path, status, reason, duration, ID, peer, images, and the bytes of both bodies."""
    sent = httpx.post(f"{server.url}/classify", content=b"not one", headers={"X-Request-Id": "me"})
    [line] = server.logged(request_id="me")
    assert line["peer"].startswith("127.0.0.1:")
    assert 0 < line["duration_ms"] < 60_000
    assert {**line, "time": "", "peer": "", "duration_ms": 0} == {
        "time": "", "level": "info", "logger": "bentoml.access", "message": "POST /classify 415", "request_id": "me",
        "method": "POST", "path": "/classify", "status": 415, "reason": "not_an_image", "duration_ms": 0, "peer": "",
        "images": 1, "bytes_in": 7, "bytes_out": len(sent.content),
    }  # fmt: skip


def test_no_request_is_a_line(server: Server) -> None:
    """A connection that is refused before it has sent a request is logged, too."""
    with server.connect() as connection:
        host, port = connection.getsockname()
        connection.sendall(b"no HTTP\r\n\r\n")
        while connection.recv(1000):
            pass
    # An earlier client may have had the same port.
    [line] = server.logged(peer=f"{host}:{port}", status=400, reason="bad_request")
    assert line["logger"] == "bentoml.access"


@pytest.fixture
def on_terminal(digits_home: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a ready service whose output is a terminal, and the lines on it."""
    lines: list[str] = []
    ours, its = pty.openpty()
    port = free_port()
    environment = {"TANDEM_HOME": str(digits_home), "BENTOML_HOME": str(tmp_path), "NO_COLOR": "1"}
    process = subprocess.Popen(
        [BENTOML, "serve", "--host", "127.0.0.1", "--port", str(port)],
        cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=its, stderr=its,
        start_new_session=True,
    )  # fmt: skip
    os.close(its)
    ready = threading.Event()

    def read() -> None:
        try:
            with os.fdopen(ours, encoding="utf-8", errors="replace") as terminal:
                for line in terminal:
                    lines.append(line.rstrip())
                    if "initialized" in line:
                        ready.set()
        except OSError:  # the terminal's last process has ended
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(90), lines
        yield f"http://127.0.0.1:{port}", lines
    finally:
        process.terminate()
        process.wait(timeout=30)
        reader.join(30)


def test_people_read_text(on_terminal: tuple[str, list[str]], image: bytes) -> None:
    """On a terminal, a line is text with the same facts; so is one that decoding wrote, in a thread."""
    url, lines = on_terminal
    dark = io.BytesIO()
    Image.fromarray(np.full((32, 32), 500, np.uint16)).save(dark, "png")
    with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=20)) as client:
        client.post("/classify", content=image, headers={"X-Request-Id": "find-me"}).raise_for_status()
        client.post("/classify", content=dark.getvalue(), headers={"X-Request-Id": "dark"}).raise_for_status()
        client.get("/model")  # when it is answered, their lines are written
    deadline = time.monotonic() + 20
    while not any("16-bit PNG" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.05)  # the thread that reads the terminal may lag behind
    [line] = [line for line in lines if "find-me" in line]
    assert re.search(r"\[INFO\] \[entry_service:Classifier:1\] 127\.0\.0\.1:\d+ \(method=POST,path=/classify,", line)
    assert f"bytes={len(image)}) (status=200,reason=,images=1,bytes=" in line
    [warning] = [line for line in lines if "16-bit PNG" in line]
    assert "[WARNING]" in warning
    assert warning.endswith(" id=dark")


def test_a_wrong_form_ends_the_start_with_a_sentence(digits_home: Path, tmp_path: Path) -> None:
    """TANDEM_LOG_FORMAT=xml: exit code 2 and a plain sentence, no object and no traceback."""
    environment = {"TANDEM_HOME": str(digits_home), "BENTOML_HOME": str(tmp_path), "TANDEM_LOG_FORMAT": "xml"}
    ended = subprocess.run(
        [BENTOML, "serve"], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert ended.stderr.strip().endswith(
        "TANDEM_LOG_FORMAT is 'xml', which is not a form of log lines; set it to json or text"
    )
    assert "Traceback" not in ended.stderr
